"""Networks spread over two processes compute what one process computes, of weights that each read its part of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.deferred_weights import load_outline, on_meta
from lit_llm.backbone.fresh_weights import draw_weights, outline_of
from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.runtime.shared_tensors import is_shared, local_part, whole
from tests.family_models import MODELS, VARIANTS, saved
from tests.processes import together

GPT2 = {"family": "gpt2", "norm": "layer", "gated_mlp": False, "learned_positions": True, "mlp_bias": True}
FOUR = torch.randint(1, 60, (3, 13), generator=torch.Generator().manual_seed(0))  # two processes halve no 13


def passed(model: Any, ids: Tensor) -> Tensor:
    """Logits of a forward pass, whose gradients are kept."""
    logits: Tensor = model.logits(model(ids))
    logits.square().mean().backward()
    return logits.detach()


def spread(folders: dict[str, Path], peers: int) -> dict[str, Any]:
    """Of each folder's model: weights as they were read, logits, gradients; or what it is refused for."""
    from torch.distributed.device_mesh import init_device_mesh

    from lit_llm.backbone.sharding import ShardingPlan, Twin, reshard, shard

    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2 // peers, peers), mesh_dim_names=("data_parallel", "tensor_parallel"))
    plan = ShardingPlan(mesh["data_parallel"], torch.device("cpu"), tensor_mesh=mesh["tensor_parallel"])
    found: dict[str, Any] = {}
    for name, folder in folders.items():
        model = load_outline(folder)
        twin = Twin(model)
        try:
            shard(model, plan)
        except UserError as error:
            found[name] = str(error)
            continue
        weights = {key: value.clone() for key, value in twin.fill(model).state_dict().items()}
        twin.empty()
        parts = [(part, part.to_local().detach(), whole(part.detach())) for part in model.parameters()]
        exact = all(torch.equal(local_part(all_of_it, part), mine) for part, mine, all_of_it in parts)
        logits = passed(model, FOUR)
        reshard(model)
        gradients = {key: whole(part.grad) for key, part in model.named_parameters()}
        found[name] = {"weights": weights, "logits": logits, "gradients": gradients, "exact": exact}
    return found


def assert_equal(found: dict[str, Any], folder: Path, name: str) -> None:
    model = load_language_model(folder)
    logits = passed(model, FOUR)
    torch.testing.assert_close(found["logits"], logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()), msg=name)
    assert found["exact"], name
    for key, weight in model.state_dict().items():
        assert torch.equal(found["weights"][key], weight), f"{name} {key}"
    for key, parameter in model.named_parameters():
        size = float(parameter.grad.abs().max())
        gap = float((found["gradients"][key] - parameter.grad).abs().max())
        assert gap <= 1e-4 * max(size, 1e-3), f"{name} {key}: {gap} of {size}"


@pytest.mark.parametrize("peers", [1, 2])
def test_fused_matrices_an_odd_vocabulary_and_biases(peers, tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 4,
             "intermediate_size": 24, "max_positions": 64, "initializer_range": 0.3}  # fmt: skip
    folders = {}
    for more, vocabulary, tied in (
        ({"family": "phi3"}, 61, False),
        ({"family": "qwen3"}, 61, True),
        ({"family": "qwen3"}, 60, True),
        (GPT2 | {"num_kv_heads": 4, "activation": "gelu_tanh"}, 60, True),
    ):
        name = f"{more['family']}{vocabulary}"
        model = LanguageModel(BackboneConfig(vocab_size=vocabulary, tie_embeddings=tied, **(shape | more)))
        for each in (each for key, each in model.named_parameters() if key.endswith("bias")):
            torch.nn.init.normal_(each, std=0.3)
        save_model(tmp_path / name, model)
        folders[name] = tmp_path / name
    for each in together(2, spread, folders, peers):
        for name, folder in folders.items():
            assert_equal(each[name], folder, name)


def gathered(folder: Path) -> dict[bool, list[tuple[bool, ...]]]:
    """By ``keep_whole``: whether a layer's weights, and those outside of layers, are whole before a forward pass, after
    it and after the backward pass."""
    from torch.distributed.device_mesh import init_device_mesh

    from lit_llm.backbone.sharding import ShardingPlan, shard

    torch.distributed.init_process_group("gloo")
    mesh, found = init_device_mesh("cpu", (2,)), {}
    for keep_whole in (False, True):
        model = load_outline(folder)
        shard(model, ShardingPlan(mesh, torch.device("cpu"), keep_whole))
        owners = model.backbone.layers[0].mlp.up_proj, model.backbone.embed_tokens
        seen = [[not is_shared(owner.weight)] for owner in owners]
        loss = model.logits(model(FOUR)).sum()
        for when, owner in zip(seen, owners, strict=True):
            when.append(not is_shared(owner.weight))
        loss.backward()
        for when, owner in zip(seen, owners, strict=True):
            when.append(not is_shared(owner.weight))
        found[keep_whole] = [tuple(when) for when in seen]
    return found


def test_weights_are_whole_from_the_forward_pass_on_where_they_are_to_be(tmp_path):
    shape = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8,
             "intermediate_size": 24, "max_positions": 64}  # fmt: skip
    save_model(tmp_path, LanguageModel(BackboneConfig(family="qwen3", vocab_size=61, **shape)))
    outside = (False, True, False)
    for found in together(2, gathered, tmp_path):
        assert found == {False: [(False, False, False), outside], True: [(False, True, False), outside]}


@pytest.mark.slow
@pytest.mark.parametrize("peers", [1, 2])
def test_every_family(peers, tmp_path):
    pytest.importorskip("transformers")
    folders = {}
    for name, one in {**MODELS, **VARIANTS}.items():
        folders[name] = tmp_path / name.replace(" ", "_")
        saved(one, folders[name])
    found = together(2, spread, folders, peers)[0]
    refused = {name for name, each in found.items() if isinstance(each, str)}
    assert refused == (set() if peers == 1 else {name for name in folders if name.startswith(("qwen3_moe", "olmo"))})
    assert all("trainer=fsdp" in found[name] for name in refused)
    for name in folders.keys() - refused:
        assert_equal(found[name], folders[name], name)


@pytest.mark.parametrize("more", [{"family": "qwen3", "tie_embeddings": False}, {"family": "qwen2"}, GPT2])
def test_random_weights_drawn_part_by_part_are_those_of_one_process(more):
    shape = {"vocab_size": 31, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 4, "head_dim": 4,
             "intermediate_size": 24, "max_positions": 16}  # fmt: skip
    config = BackboneConfig(**shape, **more)
    torch.manual_seed(7)
    wanted = LanguageModel(config)
    torch.manual_seed(7)
    found = outline_of(config)
    names, state = on_meta(found), found.drawn_from
    found.to_empty(device="cpu").tie_weights()
    torch.manual_seed(8)
    before = torch.random.get_rng_state()
    draw_weights(found, config, state, names)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, weight in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name
