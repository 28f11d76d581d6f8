"""Layers that several processes compute together (Shoeybi et al., arXiv:1909.08053): each holds some heads of
attention, some units of the MLP and some rows of embedding and head. Between them each token is one process's alone
(sequence parallelism; Korthikanti et al., arXiv:2205.05198).

Weights are DTensors, so that checkpoints know where their parts belong; what is computed with are plain local tensors,
by the same kernels as anywhere. All processes of a group read the same rows. A loss is computed by each of them alike,
from hidden states of all tokens and a head that is gathered: its gradients are the same everywhere, and each takes its
part of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.dropout import Dropout
from lit_llm.backbone.lora import ADAPTER, LoRALinear
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.tensor_shapes import faults
from lit_llm.errors import UserError

# Newer torch calls them so.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # each process computes some outputs
ROWS = ("o_proj", "down_proj")  # each process adds its share of all outputs
PARTS = ("self_attn", "mlp")  # of a layer: around them processes send to each other, within they do not


@dataclass(frozen=True)
class Peers:
    """The processes that compute a layer together."""

    mesh: DeviceMesh

    @property
    def group(self) -> Any:
        return self.mesh.get_group()

    @property
    def count(self) -> int:
        return self.mesh.size()

    @property
    def rank(self) -> int:
        return self.mesh.get_local_rank()

    def tokens(self, length: int) -> slice:
        """The places of a row of ``length`` that are this process's between layers: the last one may have fewer."""
        most = -(-length // self.count)
        return slice(min(self.rank * most, length), min((self.rank + 1) * most, length))


@dataclass
class Rows:
    """How many tokens the rows have that are under way."""

    length: int = 0


def check(config: BackboneConfig, peers: int) -> None:
    """Raises UserError where a model of this shape cannot be cut into so many parts."""
    told = f"trainer.tensor_parallel={peers}: "
    if (line := next(faults(config, peers), None)) is not None:
        raise UserError(told + line)
    if config.dropout:
        raise UserError(f"{told}processes would draw the same dropout for other tokens; backbone.dropout=0")


def parallelize(model: Any, mesh: DeviceMesh) -> None:
    """Cuts a ``LanguageModel`` or ``ScoreModel`` in place over the processes of ``mesh``, (tensor_parallel,); every
    process calls this alike, with equal weights or with weights on "meta". Raises UserError as ``check``."""
    config, peers, rows = model.config, Peers(mesh), Rows()
    check(config, peers.count)
    _cut(model, peers, _placements(model, peers.count))
    backbone = model.backbone
    _read_tokens(backbone, peers, rows)
    for layer in backbone.layers:
        for name, part in layer.named_children():
            _expose(part, *_gradients(part, peers))
            if name in PARTS:
                _surround(part, peers, rows)
    _expose(backbone.norm, dict.fromkeys(("weight", "bias"), Partial()))
    backbone.norm.register_forward_hook(lambda *given: _joined(given[2], peers, rows.length))
    if isinstance(model, LanguageModel):
        model.gathered_head = lambda weight: _whole_rows(weight, peers)


# Where the weights lie


def _placements(model: Any, peers: int) -> dict[str, Placement]:
    """How each parameter is cut; a vocabulary that cannot be shared out evenly is not."""
    vocabulary: Placement = Shard(0) if model.config.vocab_size % peers == 0 else Replicate()
    found: dict[str, Placement] = {}
    for name, _ in [*model.named_parameters(), *model.named_buffers()]:
        layer, kind, which = ["", "", *name.split(".")][-3:]
        if (kind in COLUMNS and which != "start_A") or (layer in COLUMNS and kind == "lora_B"):
            found[name] = Shard(0)
        elif (kind in ROWS and which in ("weight", "start_A")) or (layer in ROWS and kind == "lora_A"):
            found[name] = Shard(1)
        else:
            found[name] = vocabulary if kind in ("embed_tokens", "lm_head") else Replicate()
    return found


def _cut(model: nn.Module, peers: Peers, placements: Mapping[str, Placement]) -> None:
    made = {id(parameter): _shared(parameter, peers, placements[name]) for name, parameter in model.named_parameters()}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(module, name, made[id(parameter)])  # tied ones stay one
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):  # the adapter that training began with
            for part, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, part, _distributed(buffer, peers, placements[f"{name}.{part}"]))


def _shared(parameter: nn.Parameter, peers: Peers, placement: Placement) -> nn.Parameter:
    return nn.Parameter(_distributed(parameter.detach(), peers, placement), parameter.requires_grad)


def _distributed(whole: Tensor, peers: Peers, placement: Placement) -> Tensor:
    part = whole.chunk(peers.count, placement.dim)[peers.rank].clone() if isinstance(placement, Shard) else whole
    return DTensor.from_local(
        part.contiguous(), peers.mesh, [placement], run_check=False, shape=whole.shape, stride=whole.stride()
    )


def _gradients(part: nn.Module, peers: Peers) -> tuple[dict[str, Placement], dict[str, float]]:
    """``gradients`` and ``factors``, as ``_expose`` takes them, of a layer's attention, MLP or norm."""
    gradients: dict[str, Placement] = {}
    factors: dict[str, float] = {}
    for name, module in part.named_modules():
        if "lora_" in name:  # computed by the layer that it stands beside
            continue
        kind, within = name.rpartition(".")[2], f"{name}." if name else ""
        found: dict[str, Placement] = {"weight": Partial(), "bias": Partial()}  # a norm's, of some tokens or heads
        if kind in COLUMNS:
            found = {"weight": Shard(0), "bias": Shard(0), **_adapter(Partial(), Shard(0), Shard(0))}
        elif kind in ROWS:
            found = {"weight": Shard(1), "bias": Partial(), **_adapter(Shard(1), Partial(), Partial())}
            factors[f"{within}bias"] = 1 / peers.count
            if isinstance(module, LoRALinear):
                _sees_columns(module, peers)
        gradients |= {within + key: placement for key, placement in found.items()}
    return gradients, factors


def _adapter(down: Placement, up: Placement, lengths: Placement) -> dict[str, Placement]:
    """What the gradients of an adapter's tensors are: of A, of B, of the lengths that DoRA trains."""
    return dict(zip(ADAPTER, (down, up, lengths, down, up, lengths), strict=True))


def _sees_columns(layer: LoRALinear, peers: Peers) -> None:
    """A layer of ``ROWS`` with an adapter: it reads some of the features, and knows a part of its rows' lengths."""

    def added(squares: Tensor) -> Tensor:
        dist.all_reduce(squares, group=peers.group)
        return squares

    layer.add_up = added
    if isinstance(layer.lora_dropout, Dropout):
        layer.lora_dropout.part = peers.rank, peers.count


def _expose(module: nn.Module, gradients: Mapping[str, Placement], factors: Mapping[str, float] | None = None) -> None:
    """While ``module`` computes, it sees this process's part of its parameters as plain tensors. ``gradients``: what
    each process's gradient of them is, a part of the whole or a term of its sum; ``factors``: what they are multiplied
    by, where what they add is added up over processes."""
    there = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    owners = [(name, module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
              for name in gradients if name in there]  # fmt: skip

    def before(module: nn.Module, inputs: Any) -> None:  # noqa: ARG001
        for name, owner, attribute in owners:
            parameter: Any = getattr(owner, attribute)
            part = parameter.to_local(grad_placements=[gradients[name]])
            # An attribute of the object itself hides the parameter of that name.
            vars(owner)[attribute] = part * factors[name] if factors and name in factors else part

    def after(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        for _, owner, attribute in owners:
            vars(owner).pop(attribute, None)

    if owners:
        module.register_forward_pre_hook(before)
        # Also where a layer that is computed again ends early, with what its backward pass needs.
        module.register_forward_hook(after, always_call=True)


# Where the tokens go


def _read_tokens(backbone: Any, peers: Peers, rows: Rows) -> None:
    """From ids (B, T) to this process's tokens of what they stand for."""
    embedding = backbone.embed_tokens
    cut = embedding.weight.placements[0].is_shard()
    first = peers.rank * (embedding.num_embeddings // peers.count)
    _expose(embedding, {"weight": Shard(0) if cut else Partial()})
    asked: list[Tensor] = []

    def before(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:  # noqa: ARG001
        rows.length = inputs[0].shape[1]
        if not cut:
            return inputs
        ids = inputs[0] - first
        others = (ids < 0) | (ids >= embedding.num_embeddings // peers.count)
        asked.append(others)
        return (ids.masked_fill(others, 0),)

    def after(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:  # noqa: ARG001
        if not cut:
            return embedded[:, peers.tokens(rows.length)]
        mine = embedded.masked_fill(asked.pop()[..., None], 0)
        found: Tensor = _Scatter.apply(mine, peers)  # type: ignore[no-untyped-call]
        return found

    embedding.register_forward_pre_hook(before)
    embedding.register_forward_hook(after)
    if backbone.embed_positions is not None:
        _expose(backbone.embed_positions, {"weight": Partial()})
        backbone.embed_positions.register_forward_hook(lambda module, inputs, x: x[:, peers.tokens(rows.length)])  # noqa: ARG005


def _surround(part: nn.Module, peers: Peers, rows: Rows) -> None:
    """Attention or an MLP: what goes in are all tokens, what comes out is added up, each process's tokens to it."""

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: ARG001
        if len(inputs) > 1:  # attention, whose rotation has all tokens; a layer that is computed again begins with it
            rows.length = inputs[1].cos.shape[-2]
        return (_Gather.apply(inputs[0], peers, rows.length), *inputs[1:])  # type: ignore[no-untyped-call]

    def after(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:  # noqa: ARG001
        found: Tensor = _Scatter.apply(output, peers)  # type: ignore[no-untyped-call]
        return found

    part.register_forward_pre_hook(before)
    part.register_forward_hook(after)


def _joined(x: Tensor, peers: Peers, length: int) -> Tensor:
    found: Tensor = _Join.apply(x, peers, length)  # type: ignore[no-untyped-call]
    return found


def _whole_rows(weight: Any, peers: Peers) -> Tensor:
    """The head, (V, ...), of all processes' rows."""
    found: Tensor = weight
    if not isinstance(weight, DTensor):
        return found
    if not weight.placements[0].is_shard():
        found = weight.to_local(grad_placements=[Replicate()])
        return found
    found = _WholeRows.apply(weight.to_local(grad_placements=[Shard(0)]), peers)  # type: ignore[no-untyped-call]
    return found


def _gathered(x: Tensor, peers: Peers, length: int) -> Tensor:
    """Each process's tokens (B, t, D): all of them, (B, ``length``, D)."""
    most = -(-length // peers.count)
    mine = F.pad(x, (0, 0, 0, most - x.shape[1])).contiguous()
    every = mine.new_empty(peers.count * mine.shape[0], *mine.shape[1:])
    _all_gather(every, mine, peers.group)
    whole: Tensor = every.view(peers.count, -1, *every.shape[1:]).transpose(0, 1).flatten(1, 2)[:, :length]
    return whole


def _summed(x: Tensor, peers: Peers) -> Tensor:
    """The sum of every process's (B, T, D), at this one's tokens: (B, t, D)."""
    length = x.shape[1]
    most = -(-length // peers.count)
    padded = F.pad(x, (0, 0, 0, most * peers.count - length))
    parts = padded.reshape(len(x), peers.count, most, -1).transpose(0, 1).flatten(0, 1).contiguous()
    mine = parts.new_empty(x.shape[0], most, x.shape[2])
    _reduce_scatter(mine, parts, group=peers.group)
    here = peers.tokens(length)
    return mine[:, : here.stop - here.start]


class _Gather(torch.autograd.Function):
    """Each process's tokens to all tokens; the gradients of all tokens are terms of a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, peers: Peers, length: int) -> Tensor:
        ctx.peers = peers
        return _gathered(x, peers, length)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _summed(grads[0], ctx.peers), None, None


class _Scatter(torch.autograd.Function):
    """Terms of a sum over all tokens to the sum of each process's tokens."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, peers: Peers) -> Tensor:
        ctx.peers, ctx.length = peers, x.shape[1]
        return _summed(x, peers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _gathered(grads[0], ctx.peers, ctx.length), None


class _Join(torch.autograd.Function):
    """As ``_Gather``, for what all processes compute alike: each has the whole gradient, and takes its tokens of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, peers: Peers, length: int) -> Tensor:
        ctx.here = peers.tokens(length)
        return _gathered(x, peers, length).clone()  # FSDP warns of views

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0][:, ctx.here], None, None


class _WholeRows(torch.autograd.Function):
    """Each process's rows (V / P, ...) to all (V, ...); the gradient as of ``_Join``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, peers: Peers) -> Tensor:
        ctx.first, ctx.many = peers.rank * len(rows), len(rows)
        whole = rows.new_empty(peers.count * len(rows), *rows.shape[1:])
        _all_gather(whole, rows.contiguous(), peers.group)
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0][ctx.first : ctx.first + ctx.many], None
