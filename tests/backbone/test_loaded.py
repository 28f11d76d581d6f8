"""Invariant: what is held in memory is not read again, and is held by nobody but those who asked for it."""

import copy
import gc
import weakref

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.loaded import LoadedModel, load_shared
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.weights import weights_hash
from lit_llm.text.bpe import train_bpe
from tests.folder_reads import count_reads


@pytest.fixture
def folder(tmp_path):
    tokenizer = train_bpe(["The cat sat."] * 4, 270, show_progress=False)
    save_model(tmp_path, LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2)), tokenizer)
    return tmp_path


def test_a_folder_is_read_while_nobody_holds_it_and_when_it_was_written_again(folder, monkeypatch):
    reads = count_reads(monkeypatch)
    first = load_shared(folder)
    assert load_shared(str(folder)) is first and set(reads.values()) == {1} and len(reads) == 2
    with torch.no_grad():
        other = copy.deepcopy(first.model)
        other.output_weight.add_(1.0)
    save_model(folder, other, first.tokenizer)
    second = load_shared(folder)
    assert torch.equal(second.model.output_weight, other.output_weight) and set(reads.values()) == {2}
    gone = weakref.ref(second.model)
    del second
    gc.collect()
    assert gone() is None
    load_shared(folder)
    assert set(reads.values()) == {3}


def test_one_that_a_trainer_rounded_is_not_shared(folder):
    held = load_shared(folder)
    held.model.to(torch.bfloat16)
    found = load_shared(folder)
    assert found is not held and found.model.output_weight.dtype == torch.float32


def test_a_copy_has_the_same_key_whatever_becomes_of_the_first(folder):
    found = load_shared(folder)
    start = copy.deepcopy(found)
    found.tokenizer.add_tokens(["<cat>"])
    with torch.no_grad():
        found.model.output_weight.add_(1.0)
    again = load_shared(folder)  # is the first, which nobody should have changed
    assert start.key == (weights_hash(start.model), start.tokenizer.fingerprint()) != again.key
    assert LoadedModel(start.model, start.tokenizer, "known").key == ("known", start.tokenizer.fingerprint())
