"""One training step, the same for everybody: forward, backward, clip, fused AdamW."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.contestants import Contestant
from benchmarks.race import wait_for

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


class TrainingStep:
    """A contestant in one precision, compiled or not, ready to be timed."""

    def __init__(
        self,
        contestant: Contestant,
        batch: tuple[Tensor, ...],
        precision: str,
        compiled: bool,
    ) -> None:
        self.batch = batch
        self.device = batch[0].device
        self.loss = torch.zeros(())
        self.mixed = precision == "bf16-mixed"
        self.contestant = contestant.to(self.device, torch.bfloat16 if precision == "bf16-true" else torch.float32)
        self.parameters = [p for p in self.contestant.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        if compiled:
            contestant.compile_network()

    @property
    def units(self) -> float:
        """Tokens."""
        return self.batch[0].numel()

    def __call__(self) -> None:
        self.loss = self.step()

    def numbers(self) -> dict[str, float]:
        """The last step's loss: all train on one batch."""
        return {"loss": float(self.loss)}

    def step(self) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            loss: Tensor = self.contestant(*self.batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def wait(self) -> None:
        wait_for(self.device)
