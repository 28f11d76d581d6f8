"""What a stage does where its networks are spread over processes (``trainer=fsdp``, ``trainer=tp``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from lit_llm.errors import UserError
from lit_llm.runtime.distributed import take_the_same_rows
from lit_llm.runtime.shared_tensors import is_shared, shared_as

GATHERED = {"bf16-mixed": torch.bfloat16}
"""By the Trainer's precision the type in which weights are gathered and multiplied; else they keep their own."""


class Sharding:
    """The networks of ``stage`` named ``names``, which are spread over processes here, in place.

    From then on a forward or backward pass is one of all processes: each makes as many, in the same order. What runs a
    network in its own time (generation, an evaluation) asks for the ``whole`` of it.
    """

    def __init__(self, stage: L.LightningModule, names: Iterable[str]) -> None:
        from lit_llm.backbone.sharding import Twin, shard

        self.stage = stage
        plan = plan_of(stage)
        self.peers = plan.tensor_mesh
        self.networks: dict[str, Any] = {name: getattr(stage, name) for name in names}
        self.twins = {name: Twin(network) for name, network in self.networks.items()}
        for network in self.networks.values():
            shard(network, plan)

    @contextmanager
    def whole(self, name: str, everywhere: bool = True) -> Iterator[Any]:
        """The network with all its weights while this lasts; None but in the first process where it is not to be
        ``everywhere``. Every process calls this alike."""
        here = everywhere or self.stage.global_rank == 0
        with self.twins[name].filled(self.networks[name], here) as network:
            yield network

    def gather(self, name: str) -> Any:
        """The same, to keep, in the first process's host memory."""
        first = self.stage.global_rank == 0
        network = self.twins[name].fill(self.networks[name], here=first, device=torch.device("cpu"))
        return network if first else None

    def reshard(self) -> None:
        """Before weights change: what is whole of them would be those of before."""
        from lit_llm.backbone.gathering import reshard

        for network in self.networks.values():
            reshard(network)

    def drop_gradients(self) -> None:
        """After weights have changed."""
        for parameter in self.stage.parameters():
            parameter.grad = None

    def shared_out(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A checkpoint's whole weights as the networks hold them: this process's part of each."""
        own = self.stage.state_dict()
        return {name: shared_as(value, own.get(name)) for name, value in state.items()}

    def of_first_peer(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """What the first of the processes that compute a share of the rows together has, in each of them: what is
        sampled, or judged by a program with a limit of time, may not come out twice the same, and they would learn from
        different things without a word. Every process calls this alike."""
        given = list(tensors)
        if self.peers is None or self.peers.size() == 1:
            return given
        group = self.peers.get_group()
        told = [[tensor.cpu() for tensor in given]]
        dist.broadcast_object_list(told, src=dist.get_global_rank(group, 0), group=group)
        return [tensor.to(self.stage.device) for tensor in told[0]]

    def in_any(self, flag: bool) -> bool:
        """Whether it is so in any process. Every process calls this alike."""
        found = torch.tensor(int(flag), device=self.stage.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def average_plain(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages over processes the gradients of what is in no network that is shared out, as DDP would."""
        plain = [each for each in parameters if not is_shared(each)]
        for parameter in plain:
            if parameter.grad is None:  # this process's rows had no use for it
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def sharding_of(stage: Any, names: Iterable[str]) -> Sharding | None:
    """The networks of ``stage``, spread out where its Trainer's strategy asks for it, else None; processes of one
    tensor-parallel group take the same rows from here on.

    Raises UserError for a network of one's own or of transformers, and what else cannot be spread out.
    """
    strategy = stage.trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy):
        take_the_same_rows(1)
        return None
    take_the_same_rows(strategy.device_mesh["tensor_parallel"].size())
    present = [name for name in names if getattr(stage, name, None) is not None]
    for name in present:
        check_network(getattr(stage, name))
    return Sharding(stage, present)


def check_network(network: Any) -> None:
    """Raises UserError where a network is none of this package's, or holds weights in 4 bits."""
    from lit_llm.backbone.models import LanguageModel, ScoreModel
    from lit_llm.backbone.quantized import has_quantized
    from lit_llm.backbone.transformer import Transformer

    if not isinstance(network, LanguageModel | ScoreModel) or not isinstance(network.backbone, Transformer):
        found = type(getattr(network, "backbone", network)).__name__
        raise UserError(f"trainer=fsdp: spreads networks of this package; {found} is none: use trainer=ddp")
    if has_quantized(network):
        raise UserError("trainer=fsdp: weights in 4 bits are not shared out; use trainer=ddp, or leave nf4 out")


def plan_of(stage: Any) -> Any:
    """The plan that the strategy and the precision of the stage's Trainer ask for."""
    from lit_llm.backbone.sharding import ShardingPlan

    strategy, precision = stage.trainer.strategy, str(stage.trainer.precision)
    mesh = getattr(strategy, "shard_mesh", None)
    tensor_mesh = getattr(strategy, "tensor_mesh", None)
    gathered = GATHERED.get(precision)
    return ShardingPlan(
        mesh=strategy.device_mesh["data_parallel"] if mesh is None else mesh,
        device=strategy.root_device,
        keep_whole=getattr(strategy, "shard", "full") == "grad",
        param_dtype=gathered,
        reduce_dtype=None if precision.startswith("32") else torch.float32,
        tensor_mesh=strategy.device_mesh["tensor_parallel"] if tensor_mesh is None else tensor_mesh,
    )
