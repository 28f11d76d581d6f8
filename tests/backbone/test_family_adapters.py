"""Invariant: an adapter of any family means the same here and in PEFT, fused layers and (in, out) ones too."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from lit_llm.backbone.dropout import Dropout
from lit_llm.backbone.huggingface import load_language_model
from lit_llm.backbone.lora import adapted, apply_lora, merge_lora
from lit_llm.backbone.saved_adapters import load_adapter, save_adapter
from lit_llm.errors import UserError
from lit_llm.generation.sampling import generate
from tests.family_models import MODELS, rows, saved

peft = pytest.importorskip("peft")


KINDS = [{}, {"rank_stabilized": True}, {"decomposed": True}, {"rank_stabilized": True, "decomposed": True}]
CASES = [(name, KINDS[0]) for name in MODELS] + [
    (name, kind) for name in ("llama", "qwen2", "phi3", "gpt_neox", "gpt2") for kind in KINDS[1:]
    if not (name == "gpt2" and kind.get("decomposed"))  # PEFT has no DoRA of (in, out) matrices
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_adapters_are_peft_s(name: str, kind: dict[str, bool], tmp_path: Path) -> None:
    """Written here and read by PEFT beside transformers' model; on some of the layers, and merged."""
    theirs, ours = saved(MODELS[name], tmp_path / "base"), load_language_model(tmp_path / "base")
    base, tokens = copy.deepcopy(ours), torch.cat(rows(20))
    targets = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    targets += ["gate_proj"] if name == "qwen3_moe" else []  # PEFT takes both of an expert or none
    if kind.get("decomposed") and name in ("phi3", "gpt_neox"):
        targets = [*targets, "k_proj", *(["gate_proj"] if name == "phi3" else [])]
    apply_lora(ours, rank=3, alpha=7.0, dropout=0.0, targets=targets, **kind)
    with torch.no_grad():
        for layer in adapted(ours).values():
            layer.lora_B.weight.normal_(0, 0.3)
            if layer.lora_magnitude_vector is not None:
                layer.lora_magnitude_vector.mul_(1 + 0.3 * torch.rand(layer.out_features))
        expected = ours.logits(ours(tokens))
        assert not torch.allclose(expected, base.logits(base(tokens)), atol=0.01)
        save_adapter(tmp_path / "adapter", ours, str(tmp_path / "base"))
        found = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
        torch.testing.assert_close(found(tokens).logits, expected, atol=2e-4, rtol=0)
        again = load_adapter(tmp_path / "adapter", base)
        torch.testing.assert_close(again.logits(again(tokens)), expected, atol=1e-5, rtol=0)
        merged = merge_lora(copy.deepcopy(ours))
        torch.testing.assert_close(merged.logits(merged(tokens)), expected, atol=1e-4, rtol=0)
        asked = {"max_new_tokens": 8, "end_ids": (), "temperature": 0.0}
        said = [generate(model, tokens.tolist(), **asked) for model in (ours, merged)]
        assert torch.equal(said[0].input_ids, said[1].input_ids), "the decoder has the adapters too"


@pytest.mark.parametrize("name", ["phi3", "gpt_neox", "gpt2"])
def test_adapters_of_fused_layers_that_peft_trained_are_read(name: str, tmp_path: Path) -> None:
    theirs, ours = saved(MODELS[name], tmp_path), load_language_model(tmp_path)
    fused = {"phi3": ["qkv_proj", "gate_up_proj"], "gpt_neox": ["query_key_value"], "gpt2": ["c_attn"]}[name]
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=fused, task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2"
    )
    adapter = peft.get_peft_model(theirs, config).eval()
    with torch.no_grad():
        for key, parameter in adapter.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.3)
        adapter.save_pretrained(tmp_path / "adapter")
        found, tokens = load_adapter(tmp_path / "adapter", ours).eval(), torch.cat(rows(20))
        torch.testing.assert_close(found.logits(found(tokens)), adapter(tokens).logits, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "qwen3_moe", "gemma2"])
def test_all_linear_layers_get_an_adapter(name: str, tmp_path: Path) -> None:
    saved(MODELS[name], tmp_path)
    model = apply_lora(load_language_model(tmp_path), rank=2)
    plain = {key for key, module in model.backbone.named_modules() if type(module) is torch.nn.Linear}
    assert {key.rpartition(".")[2] for key in plain} <= {"lora_A", "lora_B"}
    model(torch.cat(rows(9))).sum().backward()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_dora_trains_as_peft_s(dropout: float, tmp_path: Path) -> None:
    """The same gradients, with the length of a row held fixed, as the paper has it (section 4.3)."""
    theirs, ours = saved(MODELS["llama"], tmp_path), load_language_model(tmp_path)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_dora=True,
                             lora_dropout=dropout, task_type="CAUSAL_LM")  # fmt: skip
    adapter = peft.get_peft_model(theirs, config)
    with torch.no_grad():
        for key, parameter in adapter.named_parameters():
            if "lora_B" in key:
                parameter.normal_(0, 0.3)
    adapter.save_pretrained(tmp_path / "adapter")
    load_adapter(tmp_path / "adapter", ours)
    for module in adapter.modules():  # the same elements are left out for a seed
        if hasattr(module, "lora_dropout") and dropout:
            module.lora_dropout["default"] = Dropout(dropout)
    tokens, found = torch.cat(rows(20)), []
    for logits, model in ((lambda: adapter(tokens).logits, adapter), (lambda: ours.logits(ours(tokens)), ours)):
        torch.manual_seed(0)
        model.train()
        logits().square().mean().backward()
        names = (".lora_A", ".lora_B", ".lora_magnitude")
        found.append([each.grad for key, each in model.named_parameters() if any(name in key for name in names)])
    assert len(found[0]) == len(found[1]) == 3 * 2 * ours.config.num_layers
    ordered = [sorted(each, key=lambda grad: (grad.shape, grad.abs().sum().item())) for each in found]
    for theirs_, mine in zip(*ordered, strict=True):
        torch.testing.assert_close(mine, theirs_, atol=1e-5, rtol=1e-3)


def test_a_part_of_a_fused_matrix_has_no_lengths_of_its_own(tmp_path: Path) -> None:
    saved(MODELS["phi3"], tmp_path)
    with pytest.raises(UserError, match="k_proj, q_proj, v_proj are one matrix"):
        apply_lora(load_language_model(tmp_path), rank=2, targets=["q_proj"], decomposed=True)
