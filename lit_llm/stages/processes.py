"""What processes that share a batch tell each other, for a stage that drives its own updates."""

from __future__ import annotations

from contextlib import nullcontext

from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor

from lit_llm.stages.base import Stage


class Processes(Stage):
    """Every process calls these alike, or the others wait for it without end."""

    def sum_of_processes(self, value: Tensor) -> Tensor:
        return self._reduced(value, "sum")

    def mean_of_processes(self, value: Tensor) -> Tensor:
        return self._reduced(value, "mean")

    def most_of_processes(self, value: Tensor) -> Tensor:
        return self._reduced(value, "max")

    def add_gradients(self, loss: Tensor, last: bool) -> None:
        """Adds the gradients of ``loss``, a part of a minibatch's.

        Processes wait for each other, and average, in a minibatch's ``last`` call alone: they may hold different
        numbers of micro batches, and a part of the loss may reach only some of the weights.
        """
        strategy = self.trainer.strategy
        apart = isinstance(strategy, ParallelStrategy) and not last
        with strategy.block_backward_sync() if apart else nullcontext():  # type: ignore[attr-defined]
            self.manual_backward(loss)

    def _reduced(self, value: Tensor, how: str) -> Tensor:
        if self.trainer.world_size == 1:
            return value
        reduced: Tensor = self.trainer.strategy.reduce(value.to(self.device, copy=True), reduce_op=how)
        return reduced
