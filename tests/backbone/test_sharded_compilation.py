"""Compiled layers whose weights or tokens are gathered around them: the numbers of plain ones, a budget for what they
keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.deferred_weights import load_outline
from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.backbone.lora import adapted, apply_lora
from lit_llm.backbone.models import LanguageModel
from lit_llm.runtime.shared_tensors import whole
from tests.processes import together

IDS = torch.randint(61, (2, 32), generator=torch.Generator().manual_seed(0))


def passed(model: Any) -> tuple[Tensor, int]:
    """Logits of a forward pass, whose gradients are kept; the bytes that it saved for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.itemsize
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits: Tensor = model.logits(model(IDS))
    logits.square().mean().backward()
    return logits.detach(), sum(kept.values())


def with_adapters(folder: Path) -> Any:
    """Whose weights are scaled to trained lengths, and which change what the model says."""
    torch.manual_seed(1)
    model = apply_lora(load_language_model(folder), 4, 16.0, 0.0, decomposed=True)
    for layer in adapted(model).values():
        torch.nn.init.normal_(layer.lora_B.weight, std=0.2)
    return model


def compiled(folder: Path, peers: int, budgets: list[float]) -> list[dict[str, Any]]:
    """By budget what a compiled model finds; the last one has adapters."""
    from torch._functorch import config as functorch
    from torch.distributed.device_mesh import init_device_mesh

    from lit_llm.backbone.sharding import ShardingPlan, reshard, shard

    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2 // peers, peers), mesh_dim_names=("data_parallel", "tensor_parallel"))
    plan = ShardingPlan(mesh["data_parallel"], torch.device("cpu"), tensor_mesh=mesh["tensor_parallel"])
    found = []
    for budget in [*budgets, None]:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        functorch.activation_memory_budget = 1.0 if budget is None else budget
        model = with_adapters(folder) if budget is None else load_outline(folder)
        model.backbone.compile()
        shard(model, plan)
        logits, kept = passed(model)
        reshard(model)
        gradients = {name: whole(each.grad) for name, each in model.named_parameters() if each.grad is not None}
        breaks = dict(torch._dynamo.utils.counters["graph_break"])
        frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        found.append({"logits": logits, "gradients": gradients, "kept": kept, "breaks": breaks, "graphs": frames,
                      "compiled": model.backbone.compiled})  # fmt: skip
    return found


def assert_same(found: dict[str, Any], plain: Any) -> None:
    logits, _ = passed(plain)
    torch.testing.assert_close(found["logits"], logits, rtol=1e-4, atol=1e-4)
    trained = {name: each.grad for name, each in plain.named_parameters() if each.requires_grad}
    assert found["compiled"] and found["gradients"].keys() == trained.keys()
    for name, gradient in trained.items():
        torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("peers", [1, 2])
def test_sharded_layers_are_compiled_and_keep_what_the_budget_allows(peers, tmp_path):
    """With tensor parallelism attention and MLP are compiled, each by itself: between them tokens travel."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
             "intermediate_size": 96, "max_positions": 64, "initializer_range": 0.3}  # fmt: skip
    save_model(tmp_path, LanguageModel(BackboneConfig(family="qwen3", vocab_size=61, **shape)))
    all_of_it, little, adapters = together(2, compiled, tmp_path, peers, [1.0, 0.2], seconds=600)[0]
    assert little["kept"] < (0.7 if peers == 1 else 0.8) * all_of_it["kept"]
    for found in (all_of_it, little):
        assert not found["breaks"] and found["graphs"] >= peers
        assert_same(found, load_language_model(tmp_path))
    assert_same(adapters, with_adapters(tmp_path))
