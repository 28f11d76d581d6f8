"""The random streams of a run: saved with it, and left untouched by what is not training."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from lit_llm.runtime.distributed import gathered, gathered_shares, peers
from lit_llm.runtime.lightning_loops import validation_is_next


def random_state() -> dict[str, Any]:
    """torch's and python's streams of this process, as tensors and plain values (numpy's would need unpickling)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}


def set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([stream.cpu() for stream in state["cuda"]])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def take_up(states: list[dict[str, Any]], rank: int) -> None:
    """Go on with this process's stream among those of all processes; a process that was none of them begins its own."""
    if rank < len(states):
        set_random_state(states[rank])
        return
    origin = states[rank % len(states)]
    told = hashlib.sha256(origin["torch"].cpu().numpy().tobytes() + repr(origin["python"]).encode() + b"%d" % rank)
    seed = int.from_bytes(told.digest()[:8], "big") >> 1
    torch.manual_seed(seed)  # a GPU's too
    random.seed(seed)


def draw_as_the_first_peer(device: torch.device, rank: int, world_size: int) -> None:
    """Processes that compute one model together go on with the stream of the first of them, which alone may have drawn
    before: what adapters leave out of one input is the same in all."""
    if peers() == 1:
        return
    on_gpu = device.type == "cuda"
    mine = torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None, random.getstate()
    on_host, on_device, python = gathered(mine, world_size)[rank - rank % peers()]
    torch.set_rng_state(on_host)
    if on_device is not None:
        torch.cuda.set_rng_state(on_device, device)
    random.setstate(python)


class RandomState(L.Callback):
    """Keeps each process's random streams in the checkpoint, and keeps validation from drawing on them.

    Restored in ``on_train_start``: between loading and that, Lightning runs a trial validation and makes iterators.
    A run that goes on with more processes than it was saved with gives each new one a stream of its own, made from that
    of process (rank modulo their number) and its rank: the same whenever the checkpoint is resumed so. With fewer, the
    streams of those that are no more are left out. Processes that compute one model together draw alike: they have one
    stream, and count as one process.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] = []
        self._before_validation: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        mine = random_state()
        if not (dist.is_available() and dist.is_initialized()):
            return {"processes": [mine]}
        return {"processes": gathered_shares(mine, dist.get_world_size())}  # all processes dump, only the first writes

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict["processes"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Also before the validation that a resumed run begins with."""
        if self._loaded:
            take_up(self._loaded, trainer.global_rank // peers())
        self._loaded = []
        draw_as_the_first_peer(pl_module.device, trainer.global_rank, trainer.world_size)
        self._before_validation = random_state() if validation_is_next(trainer) else None

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ARG002
        """Before a validation, whose loaders draw a seed before any hook for it runs."""
        self._before_validation = random_state() if validation_is_next(trainer) else None

    def on_train_batch_start(self, *args: Any) -> None:  # noqa: ARG002
        if self._before_validation is not None:
            set_random_state(self._before_validation)
            self._before_validation = None
