"""Compiled layers whose weights are gathered around them: the numbers of plain ones, a budget for what they keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.deferred_weights import load_outline
from lit_llm.backbone.huggingface import load_language_model, save_model
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


def compiled(folder: Path, budgets: list[float]) -> list[dict[str, Any]]:
    from torch._functorch import config as functorch
    from torch.distributed.device_mesh import init_device_mesh

    from lit_llm.backbone.sharding import ShardingPlan, reshard, shard

    torch.distributed.init_process_group("gloo")
    plan = ShardingPlan(init_device_mesh("cpu", (2,), mesh_dim_names=("data_parallel",)), torch.device("cpu"))
    found = []
    for budget in budgets:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        functorch.activation_memory_budget = budget
        model = load_outline(folder)
        model.backbone.compile()
        shard(model, plan)
        logits, kept = passed(model)
        reshard(model)
        gradients = {name: whole(each.grad) for name, each in model.named_parameters()}
        breaks = dict(torch._dynamo.utils.counters["graph_break"])
        frames = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        found.append({"logits": logits, "gradients": gradients, "kept": kept, "breaks": breaks, "graphs": frames,
                      "compiled": model.backbone.compiled})  # fmt: skip
    return found


@pytest.mark.slow
def test_sharded_layers_are_compiled_and_keep_what_the_budget_allows(tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
             "intermediate_size": 96, "max_positions": 64, "initializer_range": 0.3}  # fmt: skip
    save_model(tmp_path, LanguageModel(BackboneConfig(family="qwen3", vocab_size=61, **shape)))
    plain = load_language_model(tmp_path)
    logits, _ = passed(plain)
    all_of_it, little = together(2, compiled, tmp_path, [1.0, 0.2], seconds=600)[0]
    assert little["kept"] < 0.7 * all_of_it["kept"]
    for found in (all_of_it, little):
        assert found["compiled"] and not found["breaks"] and found["graphs"] >= 1
        torch.testing.assert_close(found["logits"], logits, rtol=1e-4, atol=1e-4)
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(found["gradients"][name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)
