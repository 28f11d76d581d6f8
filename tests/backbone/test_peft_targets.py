"""Invariant: an adapter that PEFT made of some layers, of several ranks, or with an embedding and a head of its own
means here what it means there, and is handed on as it is; what stays out is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_llm.backbone.adapter_folder import go_on, save_adapter_folder
from lit_llm.backbone.huggingface import load_language_model, load_model
from lit_llm.backbone.lora import adapted
from lit_llm.backbone.saved_adapters import load_adapter
from lit_llm.errors import UserError
from tests.family_models import MODELS, VARIANTS, rows, saved

peft = pytest.importorskip("peft")

TOKENS = torch.cat(rows(20))
QV = ["q_proj", "v_proj"]
UNSLOTH = r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|down_proj)))"
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "an expression": ("llama", {"target_modules": UNSLOTH}, 8),
    "flags in it": ("llama", {"target_modules": r"(?i).*\.[13]\..*(Q|K)_PROJ"}, 4),
    "all linear": ("llama", {"target_modules": "all-linear"}, 28),
    "all but": ("qwen3", {"target_modules": "all-linear", "exclude_modules": r".*\.mlp\..*|.*\.0\..*"}, 12),
    "but some": ("llama", {"target_modules": [*QV, "up_proj"],
                           "exclude_modules": ["up_proj", "model.layers.2.self_attn.v_proj"]}, 7),
    "a layer": ("llama", {"target_modules": QV, "layers_to_transform": 2}, 2),
    "layers": ("llama", {"target_modules": QV, "layers_to_transform": [0, 3], "layers_pattern": "layers"}, 4),
    "in full": ("llama", {"target_modules": ["model.layers.1.mlp.up_proj", "3.self_attn.o_proj"]}, 2),
    "full names and layers": ("llama", {"target_modules": ["model.layers.1.mlp.up_proj", "v_proj"],
                                        "layers_to_transform": [0], "layers_pattern": ["h", "layers"]}, 2),
    "ranks": ("llama", {"target_modules": [*QV, "down_proj"],
                        "rank_pattern": {"v_proj": 2, r"layers\.1\.mlp.down_proj": 5},
                        "alpha_pattern": {"v_proj": 3, "model.layers.0.self_attn.q_proj": 16}}, 12),
    "ranks and rsLoRA": ("llama", {"target_modules": QV, "rank_pattern": {"q_proj": 7}, "use_rslora": True}, 8),
    "ranks and DoRA": ("llama", {"target_modules": QV, "rank_pattern": {"q_proj": 7}, "use_dora": True}, 8),
    "fused": ("phi3", {"target_modules": r".*\.[02]\..*(qkv_proj|o_proj)", "rank_pattern": {"qkv_proj": 3}}, 8),
    "turned over": ("gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "layers_to_transform": [1],
                             "layers_pattern": "h", "rank_pattern": {"mlp.c_proj": 6}, "fan_in_fan_out": True}, 4),
    "a head": ("llama", {"target_modules": QV, "modules_to_save": ["lm_head"]}, 8),
    "a head and an embedding": ("mistral", {"target_modules": "all-linear",
                                            "modules_to_save": ["embed_tokens", "lm_head"]}, 28),
    "of one matrix": ("gemma2", {"target_modules": QV, "modules_to_save": ["embed_tokens", "lm_head"]}, 8),
    "an embedding alone": ("gemma3", {"target_modules": QV, "modules_to_save": ["embed_tokens"]}, 8),
}  # fmt: skip


def made(name: str, settings: dict[str, Any], folder: Path) -> Any:
    """A model of transformers with an adapter that is no identity, saved."""
    theirs = saved(MODELS.get(name) or VARIANTS[name], folder / "base")
    config = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **settings)
    adapter = peft.get_peft_model(theirs, config).eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for key, parameter in adapter.named_parameters():
            if "lora_B" in key or "modules_to_save" in key:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            if "lora_magnitude" in key:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    adapter.save_pretrained(folder / "adapter", save_embedding_layers=False)
    say(folder, base_model_name_or_path=str(folder / "base"))
    return adapter


def say(folder: Path, **values: Any) -> None:
    """In place of what PEFT made of ``all-linear`` and the like when it saved them."""
    file = folder / "adapter/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.logits(model(TOKENS))


@pytest.mark.parametrize("case", CASES)
def test_it_means_what_it_means_in_peft_and_is_handed_on(case: str, tmp_path: Path) -> None:
    name, settings, count = CASES[case]
    with torch.no_grad():
        expected = made(name, settings, tmp_path)(TOKENS).logits
    say(tmp_path, target_modules=settings["target_modules"])
    kept = load_model(tmp_path / "adapter", "language", keep_adapter=True).eval()
    assert len(adapted(kept)) == count
    torch.testing.assert_close(logits(kept), expected, atol=2e-4, rtol=0)
    base = logits(load_language_model(tmp_path / "base").eval())
    assert not torch.allclose(base, expected, atol=0.05), "the adapter does something"
    merged = load_language_model(tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(merged), expected, atol=3e-4, rtol=0)
    if name in ("phi3", "gpt2"):
        with pytest.raises(UserError, match=rf"stage.lora_merge=false: an adapter of some layers of {name}"):
            save_adapter_folder(tmp_path / "again", kept)
        return
    save_adapter_folder(tmp_path / "again", kept)
    again = load_model(tmp_path / "again", "language", keep_adapter=True).eval()
    torch.testing.assert_close(logits(again), logits(kept), atol=1e-6, rtol=0)
    theirs = saved(MODELS[name], tmp_path / "other")
    with torch.no_grad():
        found = peft.PeftModel.from_pretrained(theirs, tmp_path / "again").eval()(TOKENS).logits
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=0)


def test_such_an_adapter_goes_on_with_the_rank_of_most_layers(tmp_path: Path) -> None:
    made("llama", {"target_modules": [*QV, "down_proj"], "rank_pattern": {"down_proj": 9}}, tmp_path)
    model = load_model(tmp_path / "adapter", "language", keep_adapter=True)
    go_on(model, 4, 8.0, 0.1, [*QV, "down_proj"], False, False)
    assert {layer.lora_dropout.p for layer in adapted(model).values()} == {0.1}
    with pytest.raises(UserError, match=r"stage.lora_rank=9: .* give stage.lora_rank=4"):
        go_on(model, 9, 8.0, 0.1, [*QV, "down_proj"], False, False)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"target_modules": r".*proj|lm_head"}, r"target_modules='.*' is not supported: it means lm_head too"),
    ({"target_modules": ".*norm"}, "it means model.*norm too, beside which there is no adapter here"),
    ({"target_modules": "("}, r"target_modules='\(' is not supported: it should be a regular expression"),
    ({"target_modules": "nothing"}, "it means no layer of the model"),
    ({"target_modules": [*QV, "lm_head"]}, "a list of some of down_proj, .*, or a regular expression"),
    ({"target_modules": [*QV, "embed_tokens"]}, "a list of some of"),
    ({"target_modules": []}, "a list of some of"),
    ({"target_modules": None}, "target_modules=None is not supported"),
    ({"target_modules": ".*q_proj", "layers_to_transform": [1]}, "PEFT has it beside a list alone"),
    ({"layers_to_transform": [9]}, "it means no layer of the model"),
    ({"layers_to_transform": ["1"]}, "a layer's number, a list of them, or null"),
    ({"layers_pattern": "layers"}, "PEFT has it beside layers_to_transform alone"),
    ({"layers_to_transform": [1], "layers_pattern": 3}, "layers_pattern=3 is not supported"),
    ({"exclude_modules": 3}, "exclude_modules=3 is not supported: a list of names"),
    ({"exclude_modules": QV}, "it means no layer of the model"),
    ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj=0 should be above 0"),
    ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern.q_proj=2.5 should be an integer"),
    ({"rank_pattern": {"q_proj": 8}}, r"has shape \[4, 32\], .*"),
    ({"alpha_pattern": {"(": 2}}, "alpha_pattern={'\\(': 2} is not supported: it should be a regular expression"),
    ({"alpha_pattern": [2]}, r"alpha_pattern=\[2\] is not supported: an object"),
    ({"modules_to_save": ["norm"]}, r"modules_to_save=\['norm'\] is not supported: embed_tokens, lm_head, score of"),
    ({"modules_to_save": ["lm_head"]}, "lm_head.weight"),
    ({"modules_to_save": ["classifier"]}, "this model has no such head"),
]


@pytest.mark.parametrize(("values", "line"), REFUSED)
def test_what_it_cannot_mean_is_refused_by_name(values: dict[str, Any], line: str, adapter: Path) -> None:
    say(adapter, **{"target_modules": QV, **values})
    with pytest.raises(UserError, match=line) as error:
        load_adapter(adapter / "adapter", copy.deepcopy(load_language_model(adapter / "base")))
    assert "\n" not in str(error.value) and str(adapter) in str(error.value)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    made("llama", {"target_modules": QV}, tmp_path)
    return tmp_path
