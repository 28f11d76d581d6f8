"""A network spread over processes by torch's FSDP2: each holds a part of every weight, and a layer's weights are whole
only while it is computed (Zhao et al., arXiv:2304.11277; ZeRO, arXiv:1910.02054).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from lit_llm.backbone.deferred_weights import on_meta, read_weights
from lit_llm.backbone.fresh_weights import draw_weights
from lit_llm.backbone.gathering import reshard
from lit_llm.runtime import shared_tensors

FORWARDS = ("before_completions", "logits", "score_completions", "completion_values", "values")
"""What a network computes beside ``forward``: these too ask for whole weights first."""

SETTINGS = ("config", "stored", "folder", "label", "threshold", "hidden_scale")
"""Of a network, beside its weights."""


@dataclass(frozen=True)
class ShardingPlan:
    """How networks are spread over processes."""

    mesh: DeviceMesh  # over which weights are shared out: (shards,), or (replicas, shards) that hold the same
    device: torch.device
    keep_whole: bool = False  # a layer's weights from the forward pass to its backward pass (ZeRO-2)
    param_dtype: torch.dtype | None = None  # in which weights are gathered and multiply; None: their own
    reduce_dtype: torch.dtype | None = None  # in which gradients are added up; None: the weights'
    tensor_mesh: DeviceMesh | None = None  # whose processes compute each layer together; None: each computes alone


def shard(model: Any, plan: ShardingPlan) -> None:
    """Spreads a ``LanguageModel`` or ``ScoreModel`` over the processes, in place: each block by itself, then all else,
    tied embedding and head together. Every process calls this alike, with equal weights or with weights on "meta".

    What stands outside the blocks stays whole from the forward pass on, for the head that a loss multiplies by:
    ``reshard`` before the weights are changed. Weights on "meta" are read from ``model.folder`` part by part.
    """
    hooked: tuple[str, ...] = ("",)  # what of a layer has hooks around it
    if plan.tensor_mesh is not None and plan.tensor_mesh.size() > 1:
        from lit_llm.backbone.tensor_parallel import PARTS, parallelize

        parallelize(model, plan.tensor_mesh)
        hooked = PARTS
    policy = MixedPrecisionPolicy(plan.param_dtype, plan.reduce_dtype, cast_forward_inputs=False)
    options: Any = {"mesh": plan.mesh, "mp_policy": policy, "shard_placement_fn": partial(_cut, plan.mesh.size(-1))}
    model.backbone.compile_within_hooks(hooked)
    for layer in model.backbone.layers:
        _placed(layer, plan.device)
        fully_shard(layer, reshard_after_forward=not plan.keep_whole, **options)
    _placed(model, plan.device)
    fully_shard(model, reshard_after_forward=False, **options)
    for name in FORWARDS:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)
    _read(model, plan.device)


def _cut(parts: int, parameter: nn.Parameter) -> Shard | None:
    """By rows, as a rule; what tensor parallelism cuts by rows already by columns, where that comes out even: then no
    part is made of rows that lie apart."""
    by_rows = isinstance(parameter, DTensor) and parameter.placements[0].is_shard(0) and parameter.ndim == 2
    return Shard(1) if by_rows and parameter.shape[1] % parts == 0 else None


def _read(model: Any, device: torch.device) -> None:
    """What has no memory yet gets it, and its numbers: from the folder that the model is of, or random ones."""
    names = on_meta(model)
    if names:
        model._apply(lambda tensor: torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor)
    if names and model.drawn_from is not None:
        draw_weights(model, model.config, model.drawn_from, names)
    elif names:
        read_weights(model, model.folder, names)


def _placed(module: nn.Module, device: torch.device) -> None:
    """Moves what has memory; what is on "meta" gets it when it is shared out."""
    module._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))  # type: ignore[no-untyped-call]


# The whole network


class Twin:
    """A network like ``model`` without memory, made before it is sharded, that its whole weights can be put into."""

    def __init__(self, model: Any) -> None:
        known: dict[int, Any] = {id(each): _on_meta(each) for each in model.parameters()}
        known |= {id(each): each for each in model.buffers()}
        self.network: Any = copy.deepcopy(model, known)
        owners: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in self.network.modules():
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                owners.setdefault(id(parameter), []).append((module, name))
        self._owners = {name: owners[id(parameter)] for name, parameter in self.network.named_parameters()}

    @torch.no_grad()
    def fill(self, model: nn.Module, here: bool = True, device: torch.device | None = None) -> Any:
        """All weights of ``model``, gathered one after the other, in the twin, which is returned; with ``here`` false
        this process only gives its parts away. Every process calls this alike. Tied weights are gathered once.

        ``device``: where they are put; None: where the parts are."""
        reshard(model)
        for name, parameter in model.named_parameters():
            found = shared_tensors.whole(parameter)
            if here:
                self._put(name, nn.Parameter(found if device is None else found.to(device), parameter.requires_grad))
        for name, buffer in model.named_buffers():
            owner, _, attribute = name.rpartition(".")
            self.network.get_submodule(owner)._buffers[attribute] = shared_tensors.whole(buffer)
        for setting in SETTINGS:
            if setting in vars(model):
                setattr(self.network, setting, vars(model)[setting])
        if here:  # what is no tensor of a module's own, such as a rotation's frequencies, goes along
            where = next(self.network.parameters()).device
            self.network._apply(lambda tensor: tensor.to(where))
        return self.network.eval()

    def empty(self) -> None:
        """Gives the memory back."""
        for name, parameter in list(self.network.named_parameters()):
            self._put(name, _on_meta(parameter))

    @contextmanager
    def filled(self, model: nn.Module, here: bool = True) -> Iterator[Any]:
        """The twin with the weights of ``model`` while this lasts; None where it is not ``here``."""
        network = self.fill(model, here)
        try:
            yield network if here else None
        finally:
            self.empty()

    def _put(self, name: str, parameter: nn.Parameter) -> None:
        for module, attribute in self._owners[name]:
            setattr(module, attribute, parameter)


def _on_meta(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
