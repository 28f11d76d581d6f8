"""Sharded models gathered tensor by tensor, so that no process ever holds one whole. Every process calls these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lit_llm.runtime.shared_tensors import is_shared, local


def is_sharded(module: nn.Module) -> bool:
    """Whether processes hold parts of a module's parameters (FSDP2, tensor parallel), whole as they may be for now."""
    return any(map(is_shared, module.parameters())) or any(map(_is_of_fsdp, module.modules()))


def _is_of_fsdp(module: nn.Module) -> bool:
    return hasattr(module, "reshard") and hasattr(module, "unshard")


def reshard(module: nn.Module) -> None:
    """Let go of what FSDP2 has made whole for a forward pass: the module's parameters are the parts held here."""
    for each in filter(_is_of_fsdp, module.modules()):
        each.reshard()  # type: ignore[operator]


def in_first(write: Callable[[], object]) -> None:
    """Call ``write`` in the first process. Its error is raised in every process."""
    in_first_from(iter(()), lambda _: write())


def in_first_from(stream: Iterator[Any], write: Callable[[Iterator[Any]], object]) -> None:
    """Call ``write`` with the stream in the first process; the others go through theirs, and so give their parts of
    what is gathered on the way. An error of ``write`` is raised in every process, once all have come to the end."""
    told: list[Exception | None] = [None]
    if torch.distributed.get_rank() == 0:
        try:
            write(stream)
        except Exception as error:
            told = [error]
    for _ in stream:  # what a failed write has left: the others wait for this process's parts
        pass
    torch.distributed.broadcast_object_list(told, src=0)
    if told[0] is not None:
        raise told[0]


def largest(tensor: Tensor) -> float:
    """The largest absolute value of a tensor; of a sharded one each process looks at its part."""
    if not is_shared(tensor):
        return float(tensor.detach().abs().max())
    part = local(tensor.detach())
    mine = float(part.abs().max()) if part.numel() else 0.0
    answers = [mine] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(answers, mine)
    return max(answers)
