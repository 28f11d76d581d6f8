"""Invariant: adapters beside any family of transformers are handed on as they are, and only beside plain products."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lit_llm.backbone.adapter_folder import go_on, save_adapter_folder
from lit_llm.backbone.huggingface import load_language_model, load_model
from lit_llm.backbone.lora import adapted, apply_lora
from lit_llm.backbone.saved_adapters import lora_state_dict
from lit_llm.errors import UserError
from lit_llm.stages.options import InstructionTuningOptions
from tests.other_families import folder_of

pytest.importorskip("transformers")


@pytest.mark.parametrize("name", ["falcon", "cohere", "opt"])
def test_a_chain_of_adapters_with_default_options_goes_on(name: str, tmp_path: Path) -> None:
    _, folder = folder_of(name, tmp_path)
    options = InstructionTuningOptions(lora_rank=2, lora_merge=False)
    model = apply_lora(load_language_model(folder), **options.adapters())
    save_adapter_folder(tmp_path / "adapter", model)
    again = load_model(tmp_path / "adapter", "language", keep_adapter=True)
    go_on(again, **options.adapters(0.1))
    assert set(adapted(again)) == set(adapted(model))
    assert all(layer.lora_dropout.p == 0.1 for layer in adapted(again).values())
    kept, found = lora_state_dict(model), lora_state_dict(again)
    assert all(torch.equal(found[key], each) for key, each in kept.items()) and len(kept) == len(found)
    fewer = sorted({key.rpartition(".")[2] for key in adapted(model)})[:1]
    with pytest.raises(UserError, match=rf"stage.lora_targets=\[{fewer[0]}\]: the stage starts from an adapter"):
        go_on(again, **(options.adapters() | {"targets": fewer}))


class Clipped(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.clamp(-50, 50))


def test_a_layer_that_computes_something_else_gets_no_adapter(tmp_path: Path) -> None:
    _, folder = folder_of("cohere", tmp_path)
    model = load_language_model(folder)
    for name, layer in list(model.named_modules()):
        if name.endswith("up_proj"):
            other = Clipped(layer.in_features, layer.out_features, bias=False)
            other.weight = layer.weight
            model.set_submodule(name, other)
    with pytest.raises(UserError, match=r"stage.lora_targets: up_proj is a layer of the class Clipped"):
        apply_lora(model, rank=2, targets=["q_proj", "up_proj"])
    apply_lora(model, rank=2)
    names = {name.rpartition(".")[2] for name in adapted(model)}
    assert "up_proj" not in names and {"q_proj", "down_proj"} <= names
