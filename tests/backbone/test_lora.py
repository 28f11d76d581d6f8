"""Invariants: a fresh adapter changes nothing; merging changes nothing; the base can be had back at any time."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.backbone.lora import (
    TARGETS,
    LoRALinear,
    apply_lora,
    lora_disabled,
    merge_lora,
    without_adapters,
)
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.backbone.quantized import quantize
from lit_llm.backbone.saved_adapters import load_adapter, lora_state_dict, save_adapter
from lit_llm.backbone.weights import weights_hash
from lit_llm.errors import UserError

TOKENS = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(3))


def train_adapters(model: LanguageModel | ScoreModel) -> None:
    """Adapters as training would leave them: B is no longer zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)


@pytest.fixture
def base(model: LanguageModel) -> LanguageModel:
    return copy.deepcopy(model)


@pytest.fixture
def adapted(base: LanguageModel) -> LanguageModel:
    trained = copy.deepcopy(base)
    apply_lora(trained, rank=4, alpha=8)
    train_adapters(trained)
    return trained


def test_without_adapters_it_is_the_base_in_every_bit_and_keeps_them(
    adapted: LanguageModel, base: LanguageModel
) -> None:
    found = without_adapters(adapted)
    assert torch.equal(found(TOKENS), base(TOKENS)) and not torch.equal(adapted(TOKENS), base(TOKENS))
    assert weights_hash(found) == weights_hash(base)
    assert [type(part) for part in found.modules()] == [type(part) for part in base.modules()]


def test_a_fresh_adapter_is_the_identity(model: LanguageModel, base: LanguageModel) -> None:
    assert torch.equal(apply_lora(model, rank=4)(TOKENS), base(TOKENS))


def test_only_adapters_train(model: LanguageModel) -> None:
    apply_lora(model, rank=4, dropout=0.0)
    model(TOKENS).square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name in dict(model.named_parameters()) if ".lora_" in name}
    assert len(trained) == 2 * 2 * len(TARGETS)


def test_merging_equals_the_adapter(adapted: LanguageModel, base: LanguageModel) -> None:
    expected = adapted(TOKENS)
    assert not torch.allclose(expected, base(TOKENS), atol=1e-2)
    merged = merge_lora(copy.deepcopy(adapted))
    assert torch.allclose(merged(TOKENS), expected, atol=1e-5)
    assert list(merged.state_dict()) == list(base.state_dict())
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert torch.equal(adapted(TOKENS), expected)  # the copy was merged, not the model


def test_the_base_is_had_back_and_the_adapter_again(adapted: LanguageModel, base: LanguageModel) -> None:
    with_adapter = adapted(TOKENS)
    with lora_disabled(adapted):
        assert torch.equal(adapted(TOKENS), base(TOKENS))
    assert torch.equal(adapted(TOKENS), with_adapter)


def test_dropout_acts_on_the_adapter_alone(adapted: LanguageModel, base: LanguageModel) -> None:
    adapted.train()
    assert not torch.equal(adapted(TOKENS), adapted(TOKENS))
    with lora_disabled(adapted):
        assert torch.equal(adapted(TOKENS), base(TOKENS))


def test_the_folder_is_in_peft_layout(adapted: LanguageModel, tmp_path: Path) -> None:
    """Names as the page "PEFT checkpoint format" of its documentation gives them."""
    save_adapter(tmp_path, adapted, "models/base")
    keys = load_file(tmp_path / "adapter_model.safetensors")
    assert keys["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].shape == (4, 32)
    assert keys["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"].shape == (32, 4)
    assert len(keys) == 2 * 2 * len(TARGETS)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "models/base"
    assert (settings["peft_type"], settings["task_type"], settings["r"]) == ("LORA", "CAUSAL_LM", 4)
    assert settings["target_modules"] == sorted(TARGETS)


def test_an_adapter_is_loaded_onto_its_base(adapted: LanguageModel, base: LanguageModel, tmp_path: Path) -> None:
    save_adapter(tmp_path, adapted, "base")
    again = load_adapter(tmp_path, base).eval()
    assert torch.equal(again(TOKENS), adapted(TOKENS))


def test_the_head_of_a_reward_model_trains_and_travels(model: LanguageModel, tmp_path: Path) -> None:
    score_model = ScoreModel.from_language_model(model)
    base = copy.deepcopy(score_model)
    apply_lora(score_model, rank=2, targets=("q_proj", "v_proj"))
    train_adapters(score_model)
    with torch.no_grad():
        score_model.score.weight.normal_()
    assert score_model.score.weight.requires_grad
    save_adapter(tmp_path, score_model, "base")
    assert "base_model.model.score.weight" in lora_state_dict(score_model)
    again, lengths = load_adapter(tmp_path, base).eval(), torch.tensor([12, 7])
    assert torch.equal(again(TOKENS, lengths), score_model.eval()(TOKENS, lengths))


def test_a_merged_model_is_saved_and_an_adapted_one_refused(adapted: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="merge_lora"):
        save_model(tmp_path, adapted)
    save_model(tmp_path, merge_lora(copy.deepcopy(adapted)))
    assert torch.allclose(load_language_model(tmp_path)(TOKENS), adapted(TOKENS), atol=1e-5)


def test_wrong_settings_are_refused(model: LanguageModel) -> None:
    for wrong, expected in (
        ({"rank": 0}, "lora_rank=0"),
        ({"dropout": 1.0}, r"lora_dropout=1\.0"),
        ({"targets": ("q_proj", "query")}, r"\['query'\].*q_proj"),
        ({"targets": ()}, "targets"),
    ):
        with pytest.raises(UserError, match=expected):
            apply_lora(model, **wrong)
    apply_lora(model)
    with pytest.raises(ValueError, match="adapters already"):
        apply_lora(model)


def test_a_row_of_zeros_stays_one_with_dora(base: LanguageModel) -> None:
    model = copy.deepcopy(base)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight[1] = 0
    ids = torch.tensor([[1, 2, 3, 4]])
    wanted = model.logits(model(ids))
    apply_lora(model, decomposed=True, dropout=0.0)
    found = model.logits(model(ids))
    torch.testing.assert_close(found, wanted)
    found.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    layer = next(each for each in model.modules() if isinstance(each, LoRALinear))
    torch.testing.assert_close(layer.merged().weight, layer.weight)


def test_an_adapter_that_does_not_fit_is_refused(adapted: LanguageModel, base: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"adapter_config\.json: no such file"):
        load_adapter(tmp_path, copy.deepcopy(base))
    save_adapter(tmp_path, adapted, "base")
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    for change, expected in (
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"target_modules": ["c_attn"]}, "c_attn"),
        ({"target_modules": ["q_proj"]}, "unexpected"),
        ({"r": 8}, r"shape \[4, \d+\], but adapter_config\.json says r=8"),
        ({"modules_to_save": ["score"]}, "modules_to_save"),
    ):
        path.write_text(json.dumps(settings | change))
        with pytest.raises(UserError, match=expected):
            load_adapter(tmp_path, copy.deepcopy(base))
    path.write_text(json.dumps(settings))
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: no such file"):
        load_adapter(tmp_path, copy.deepcopy(base))


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("decomposed", [False, True])
def test_under_autocast_layers_answer_in_its_type_and_adapters_learn_in_their_own(
    base: LanguageModel, decomposed: bool, quantized: bool
) -> None:
    if quantized:
        pytest.importorskip("bitsandbytes")
        quantize(base)
    model = apply_lora(base, rank=4, alpha=8, dropout=0.0, decomposed=decomposed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    found, ids = [], torch.arange(12)[None] % model.config.vocab_size
    for on in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            layer = model.backbone.layers[0].self_attn.q_proj
            assert layer(torch.ones(1, model.config.hidden_size)).dtype == (torch.bfloat16 if on else torch.float32)
            logits = model.logits(model(ids)).float()
        model.zero_grad()
        logits.square().mean().backward()
        gradients = [each.grad for name, each in model.named_parameters() if ".lora_" in name]
        assert {each.dtype for each in gradients} == {torch.float32}
        found.append([logits.detach(), *gradients])
    for wide, narrow in zip(*found, strict=True):
        assert (wide - narrow).norm() < 0.06 * wide.norm()  # 8 bits, through every layer
