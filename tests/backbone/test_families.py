"""Invariant: a folder of any family means the same function here and in transformers, however rows are read, and
whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_llm.backbone.family_table import FAMILIES
from lit_llm.backbone.huggingface import load_config, load_language_model, load_score_model, save_model
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.generation.sampling import generate
from lit_llm.objectives.language import cross_entropy
from tests.family_differences import WAYS
from tests.family_models import CONTEXT, MODELS, VARIANTS, rows, saved

transformers = pytest.importorskip("transformers")

EVERY = MODELS | VARIANTS
LARGEST = 1e-4


@pytest.fixture(scope="module", params=list(EVERY))
def pair(request: Any, tmp_path_factory: Any) -> tuple[str, Any, LanguageModel, Path]:
    """A name, the model of transformers, the one read here, and their folder."""
    folder = tmp_path_factory.mktemp("theirs")
    theirs = saved(EVERY[request.param], folder)
    return request.param, theirs, load_language_model(folder).eval(), folder


def test_every_family_is_held() -> None:
    assert set(MODELS) == set(FAMILIES)


@pytest.mark.parametrize("way", WAYS)
def test_logits_are_transformers(pair: Any, way: str) -> None:
    """Of whole rows, of documents in a row, which do not see each other, and token by token with a cache."""
    theirs, ours = pair[1:3]
    assert WAYS[way](theirs, ours) < LARGEST
    assert ours.num_parameters() == theirs.num_parameters() == ours.config.num_parameters


@torch.no_grad()
def test_a_completion_sees_its_prompt_and_itself(pair: Any) -> None:
    theirs, ours = pair[1:3]
    prompt, first, second = rows(6, 8, 5)
    tokens = torch.cat([prompt, first, second], dim=1)
    positions = torch.cat([torch.arange(14), torch.arange(6, 11)])[None]
    branches = torch.tensor([[0] * 6 + [1] * 8 + [2] * 5])
    found = ours.logits(ours(tokens, positions, torch.zeros_like(tokens), branches))
    for completion, place in ((first, slice(6, 14)), (second, slice(14, 19))):
        expected = theirs(torch.cat([prompt, completion], dim=1)).logits[:, 6:]
        torch.testing.assert_close(found[:, place], expected, atol=LARGEST, rtol=0)


@pytest.mark.parametrize("name", [*MODELS, "longrope", "yarn"])
def test_greedy_text_is_the_same(name: str, tmp_path: Path) -> None:
    """Prompts of several lengths together, each as transformers goes on from it alone."""
    theirs, prompts = saved(EVERY[name], tmp_path), rows(4, 13, 9)
    end = [theirs.generate(p, max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0) for p in prompts]
    ours = generate(load_language_model(tmp_path), [p[0].tolist() for p in prompts], max_new_tokens=16, end_ids=(),
                    temperature=0)  # fmt: skip
    for number, expected in enumerate(end):
        assert ours.input_ids[number, : ours.lengths[number]].tolist() == expected[0].tolist()


@torch.no_grad()
def test_transformers_reads_what_is_written_here(pair: Any, tmp_path: Path) -> None:
    _, theirs, ours, folder = pair
    save_model(tmp_path, ours, generation={"pad_token_id": 0})
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    assert load_config(tmp_path) == load_config(folder) == ours.config
    tokens = torch.cat(rows(40))
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)
    for ours_now, before in zip(load_language_model(tmp_path).parameters(), ours.parameters(), strict=True):
        assert torch.equal(ours_now, before)


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.score])
def test_reward_models_in_both_directions(name: str, tmp_path: Path) -> None:
    theirs, lengths = saved(MODELS[name], tmp_path / "theirs", score=True), torch.tensor([30, 17])
    tokens = torch.cat(rows(30, 30))
    tokens[1, 17:] = 0
    ours = load_score_model(tmp_path / "theirs")
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens, lengths), theirs(tokens).logits[:, 0], atol=LARGEST, rtol=0)
        save_model(tmp_path / "ours", ours, generation={"pad_token_id": 0})
        again, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
        )
        assert not any(info.values()), info
        assert torch.equal(again(tokens).logits, theirs(tokens).logits)


def test_a_family_without_a_reward_model_is_refused(tmp_path: Path) -> None:
    saved(MODELS["granite"], tmp_path)
    model = ScoreModel.from_language_model(load_language_model(tmp_path))
    with pytest.raises(UserError, match="granite has no reward model"):
        save_model(tmp_path / "score", model)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", [*MODELS, "qwen3_moe mixed", "gpt2 odd", "gpt_neox in sequence", "longrope"])
def test_gradients_are_transformers(name: str, checkpointing: bool, tmp_path: Path) -> None:
    """Of the loss of all tokens, by every parameter as the files have it."""
    theirs, ours = saved(EVERY[name], tmp_path), load_language_model(tmp_path)
    tokens = torch.cat(rows(20, 20))
    theirs(tokens, labels=tokens).loss.backward()
    ours.backbone.gradient_checkpointing = checkpointing
    result = cross_entropy(ours(tokens[:, :-1]), ours.output_weight, tokens[:, 1:], softcap=ours.logit_softcap)
    (result.loss / result.tokens).backward()
    # A model of theirs with our gradients as its weights, so that both are named and laid out alike.
    for parameter in ours.parameters():
        assert parameter.grad is not None
        parameter.data = parameter.grad
    ours.stored = None
    save_model(tmp_path / "gradients", ours)
    found = type(theirs).from_pretrained(tmp_path / "gradients")
    expected = dict(theirs.named_parameters())
    for key, parameter in found.named_parameters():
        torch.testing.assert_close(parameter.data, expected[key].grad, atol=2e-5, rtol=1e-3, msg=lambda m, k=key: k + m)


def test_what_fills_a_packed_row_up_may_be_longer_than_the_context(tmp_path: Path) -> None:
    theirs, (document, filling) = saved(MODELS["gpt2"], tmp_path), rows(20, CONTEXT + 9)
    ours, segments = load_language_model(tmp_path), torch.tensor([[0] * 20 + [1] * (CONTEXT + 9)])
    with torch.no_grad():
        found = ours.logits(ours(torch.cat([document, filling], dim=1), segments=segments))
        torch.testing.assert_close(found[:, :20], theirs(document).logits, atol=LARGEST, rtol=0)


@pytest.mark.parametrize("name", ["gemma2", "gpt_neox"])
def test_files_that_were_saved_without_a_head_are_read(name: str, tmp_path: Path) -> None:
    """Where the head is the embedding it is all there, under names without the prefix that a head brings; else it is
    missing."""
    from safetensors.torch import load_file, save_file

    theirs, (tokens,) = saved(MODELS[name], tmp_path), rows(20)
    path, head = tmp_path / "model.safetensors", {"embed_out.weight"}
    tensors = load_file(path)
    save_file({key.partition(".")[2]: tensor for key, tensor in tensors.items() if key not in head}, path)
    if not theirs.config.tie_word_embeddings:
        with pytest.raises(UserError, match=r"missing embed_out\.weight"):
            load_language_model(tmp_path)
        return
    ours = load_language_model(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=LARGEST, rtol=0)


def test_gpt2_s_first_files_are_read(tmp_path: Path) -> None:
    """Saved without a head, with the causal masks that old versions kept beside the weights."""
    from safetensors.torch import load_file, save_file

    theirs, (tokens,) = saved(MODELS["gpt2"], tmp_path), rows(20)
    path = tmp_path / "model.safetensors"
    tensors = {key.removeprefix("transformer."): tensor for key, tensor in load_file(path).items()}
    save_file(tensors | {f"h.{n}.attn.bias": torch.ones(1, 1, 8, 8) for n in range(4)}, path)
    ours = load_language_model(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=LARGEST, rtol=0)
