"""Invariant: what PEFT would compute otherwise is refused by name, whichever of its settings says so."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.backbone.lora import apply_lora
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.peft_settings import BASE_STAYS, HARMLESS, READ, REFUSED
from lit_llm.backbone.saved_adapters import load_adapter, save_adapter
from lit_llm.errors import UserError

TOKENS = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def folder(model: LanguageModel, tmp_path: Path) -> Path:
    save_adapter(tmp_path, apply_lora(copy.deepcopy(model), rank=4, alpha=8), "base")
    return tmp_path


def write(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refused(folder: Path, model: LanguageModel, **values: Any) -> str:
    before = (folder / "adapter_config.json").read_text()
    write(folder, **values)
    with pytest.raises(UserError) as error:
        load_adapter(folder, copy.deepcopy(model))
    (folder / "adapter_config.json").write_text(before)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


def test_every_setting_of_peft_s_is_known() -> None:
    """A release with another one has to be looked at."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig()
    defaults = config.to_dict()
    assert not READ & HARMLESS and not READ & REFUSED and not HARMLESS & REFUSED
    assert set(defaults) <= READ | HARMLESS | REFUSED and set(defaults) >= REFUSED
    assert all(not defaults[key] for key in REFUSED), "the default says that it is not used"


def test_an_adapter_with_all_of_peft_s_defaults_is_read(folder: Path, model: LanguageModel) -> None:
    peft = pytest.importorskip("peft")
    write(folder, **{key: value for key, value in peft.LoraConfig().to_dict().items() if key in HARMLESS | REFUSED})
    load_adapter(folder, copy.deepcopy(model))
    write(folder, inference_mode=True, auto_mapping={"a": "b"}, eva_config={"rho": 2.0}, exclude_modules=[], later=None)
    load_adapter(folder, copy.deepcopy(model))


@pytest.mark.parametrize("key", sorted(REFUSED))
def test_a_setting_that_is_not_here_is_refused_by_name(key: str, folder: Path, model: LanguageModel) -> None:
    assert f"adapter_config.json: {key}=True is not supported: merge" in refused(folder, model, **{key: True})
    assert f"{key}=0 is not supported" in refused(folder, model, **{key: 0})  # the first layer's number


def test_a_setting_of_tomorrow_s_is_refused_by_name(folder: Path, model: LanguageModel) -> None:
    line = refused(folder, model, use_tomorrow={"a": 1})
    assert "use_tomorrow={'a': 1} is not supported: no setting of PEFT's that is known here" in line


@pytest.mark.parametrize("begun", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "new", 3])
def test_a_beginning_that_changes_the_base_is_refused(begun: Any, folder: Path, model: LanguageModel) -> None:
    assert f"init_lora_weights={begun!r} is not supported: it changes the base's" in refused(
        folder, model, init_lora_weights=begun
    )


@pytest.mark.parametrize("begun", [True, False, *BASE_STAYS, "pissa", "olora"])
def test_beginnings_are_taken_where_peft_leaves_the_base_alone(
    begun: Any, model: LanguageModel, tmp_path: Path
) -> None:
    """Held against PEFT itself: the base's weights before and after it reads the folder."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    save_model(tmp_path / "base", model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    before = {name: each.clone() for name, each in theirs.named_parameters()}
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=begun, task_type="CAUSAL_LM")
    made = peft.get_peft_model(copy.deepcopy(theirs), config)
    with torch.no_grad():
        for name, each in made.named_parameters():
            if ".lora_" in name:
                each.copy_(torch.randn_like(each) * 0.3)
    made.save_pretrained(tmp_path / "adapter")
    found = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    layers = found.base_model.model.model.layers
    same = all(
        torch.equal(layer.self_attn.q_proj.base_layer.weight, before[f"model.layers.{number}.self_attn.q_proj.weight"])
        for number, layer in enumerate(layers)
    )
    assert same == (begun not in ("pissa", "olora"))
    base = load_language_model(tmp_path / "base")
    if same:
        ours = load_adapter(tmp_path / "adapter", base).eval()
        with torch.no_grad():
            torch.testing.assert_close(ours.logits(ours(TOKENS)), found(TOKENS).logits, rtol=1e-4, atol=1e-4)
    else:
        with pytest.raises(UserError, match=f"init_lora_weights='{begun}'"):
            load_adapter(tmp_path / "adapter", base)


def test_numbers_are_told_by_peft_s_names_before_any_matrix_is_made(folder: Path, model: LanguageModel) -> None:
    weights = folder / "adapter_model.safetensors"
    line = refused(folder, model, r=1_000_000_000)  # gigabytes of each layer
    assert line.startswith(f"{weights}: base_model.model") and "has shape [4, 96], but adapter_config.json says" in line
    for key, wrong in (("r", 0), ("lora_alpha", 0.0), ("lora_alpha", float("inf")), ("lora_dropout", 1.0)):
        line = refused(folder, model, **{key: wrong})
        assert f"adapter_config.json: {key}={wrong} should be" in line and "stage." not in line
    save_file({"base_model.model.x.lora_B.weight": torch.zeros(2, 2)}, weights)
    assert "holds no lora_A.weight" in refused(folder, model, r=1_000_000_000)
