"""What a strategy of sharded parameters does with checkpoints in place of Lightning's, whose folders of shards are
written under their final name, unhashed, and whose index is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer

from lit_llm.checkpointing import atomic, sharded
from lit_llm.checkpointing.background import BackgroundWriter
from lit_llm.checkpointing.training_state import Collected, collect, names_in, renumbered, split
from lit_llm.errors import UserError
from lit_llm.runtime.distributed import gathered
from lit_llm.runtime.shared_tensors import local, shared_as

if TYPE_CHECKING:
    from lightning.pytorch.strategies import ModelParallelStrategy as _Strategy
else:
    _Strategy = object


class ShardedCheckpoints(_Strategy):
    """To be named before the strategy: ``class FSDP(ShardedCheckpoints, ModelParallelStrategy)``.

    A checkpoint is a folder (``sharded``), read again by any number of processes; one of a single file, which another
    strategy wrote, is read too. Weights and optimizer states are loaded part by part, in the order in which Lightning
    loads those of other strategies: a stage may make room for what the checkpoint names.
    """

    _writers: dist.ProcessGroup | None = None  # of what is written in the background: it waits for no step
    _stored: sharded.Stored | None = None

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()  # FSDP2 lets go of whole weights for it

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        assert self.lightning_module is not None
        return plain.state_dict() | {"names": names_in(plain, self.lightning_module)}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """All processes call it. With a ``BackgroundWriter`` it returns once what is held here is copied."""
        path = Path(self.broadcast(str(filepath)))
        assert self.lightning_module is not None
        content = collect(checkpoint, self.lightning_module)
        if not isinstance(storage_options, BackgroundWriter):
            sharded.save(content, path)
            return
        if self._writers is None:
            self._writers = dist.new_group(backend="gloo")
        group = self._writers

        def prepare(copied: Any) -> Any:
            copy = Collected(content.tensors, copied(content.held), copied(content.rest))
            return partial(sharded.save, copy, path, group)

        storage_options.start(path, prepare)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002
        """All but the tensors of a folder, verified; a file as it is. Raises UserError, in every process alike."""
        path = Path(self.broadcast(str(checkpoint_path)))
        self._stored = None
        if not path.is_dir():
            return atomic.load(path, mmap=True)
        problems = gathered(sharded.problem_with(path, self.global_rank, self.world_size), self.world_size)
        if found := next((problem for problem in problems if problem is not None), None):
            raise UserError(f"{path}: {found}")
        self._stored = sharded.opened(path)
        return self._stored.rest | {"state_dict": self._stored.weight_shapes()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module = self.lightning_module
        assert module is not None
        like: dict[str, Tensor] = module.state_dict()
        given: Mapping[str, Tensor] = checkpoint["state_dict"]
        if self._stored is not None and all(tensor.is_meta for tensor in given.values()):
            given = self._stored.weights(like)
        weights = {name: shared_as(tensor, like.get(name)) for name, tensor in given.items()}
        bad = [name for name, tensor in weights.items() if not _finite(local(tensor))]
        if names := [name for each in gathered(bad, self.world_size) for name in each]:
            raise UserError(f"resume: the checkpoint's weight {names[0]} is not finite")
        module.load_state_dict(weights, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        module = self.lightning_module
        assert module is not None
        if self._stored is not None:
            states = self._stored.optimizer_states(dict(module.named_parameters()))
            states = [renumbered(state, each, module) for state, each in zip(states, self.optimizers, strict=True)]
        else:
            told = checkpoint["optimizer_states"]
            states = [split(state, each) for state, each in zip(told, self.optimizers, strict=True)]
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
