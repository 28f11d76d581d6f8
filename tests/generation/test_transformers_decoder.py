"""Generation with models of transformers: what their own ``generate`` gives, whatever rows share the cache."""

import pytest
import torch

from lit_llm.backbone.huggingface import load_language_model
from lit_llm.generation import transformers_decoder
from lit_llm.generation.sampling import completions, generate
from lit_llm.generation.streaming import stream
from tests.other_families import VOCAB, folder_of

pytest.importorskip("transformers")
CACHED = {"falcon": True, "cohere": True, "opt": True, "gptj": True, "starcoder2": True, "bloom": True, "mamba": False}


@pytest.mark.parametrize("name", CACHED)
def test_the_likeliest_tokens_are_those_of_their_own_generate(name, tmp_path, monkeypatch, caplog):
    theirs, folder = folder_of(name, tmp_path)
    model = load_language_model(folder)  # in training mode: generation turns dropout off itself
    assert model.backbone.caches == CACHED[name]
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(2, VOCAB, (size,), generator=draw).tolist() for size in (9, 3, 14, 1, 6, 20)]
    new = 20 if CACHED[name] else 6  # beyond the window of starcoder2
    monkeypatch.setattr(transformers_decoder, "_told", set())
    found = completions(generate(model, prompts, max_new_tokens=new, end_ids=[VOCAB], top_k=1, batch_size=2))
    assert model.training
    slow = [line for line in caplog.messages if "each new token reads its row anew" in line]
    assert len(slow) == (not CACHED[name]), "once, where nothing can be kept"
    for prompt, answer in zip(prompts, found, strict=True):
        rows = torch.tensor([prompt])
        given = {"attention_mask": torch.ones_like(rows), "eos_token_id": None, "pad_token_id": 0}
        wanted = theirs.generate(rows, max_new_tokens=new, do_sample=False, **given)
        assert answer == wanted[0, len(prompt) :].tolist()
    assert list(stream(model, prompts[0], max_new_tokens=new, end_ids=[VOCAB], top_k=1)) == found[0]


@torch.no_grad()
def test_the_probabilities_of_a_rollout_are_those_of_a_forward(tmp_path):
    _, folder = folder_of("stablelm", tmp_path)
    model = load_language_model(folder).eval()
    rollout = generate(model, [[3, 4, 5], [6, 7]], max_new_tokens=5, end_ids=[VOCAB], samples=3)
    logps = model.logits(model(rollout.input_ids)).log_softmax(-1)[:, :-1]
    wanted = logps.gather(2, rollout.input_ids[:, 1:, None])[..., 0]
    written = rollout.logps != 0
    assert int(written.sum()) == 30
    torch.testing.assert_close(rollout.logps[written], wanted[written], rtol=1e-4, atol=1e-5)
