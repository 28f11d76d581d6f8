"""One training step, the same for everybody: forward, backward, clip, fused AdamW."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from lit_llm.benchmark.contestants import Contestant

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


class TrainingStep:
    """A contestant in one precision, compiled or not, ready to be timed."""

    def __init__(
        self,
        contestant: Contestant,
        batch: tuple[Tensor, Tensor],
        precision: str,
        compiled: bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.batch = batch
        self.clock = clock
        self.device = batch[0].device
        self.mixed = precision == "bf16-mixed"
        self.contestant = contestant.to(self.device, torch.bfloat16 if precision == "bf16-true" else torch.float32)
        self.parameters = [p for p in self.contestant.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        if compiled:
            contestant.compile_network()

    @property
    def tokens(self) -> int:
        return self.batch[0].numel()

    def __call__(self) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            loss: Tensor = self.contestant(*self.batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def timed(self, steps: int) -> float:
        """Tokens a second over ``steps`` steps, by ``clock``."""
        self._wait()
        started = self.clock()
        for _ in range(steps):
            self()
        self._wait()
        return steps * self.tokens / (self.clock() - started)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
