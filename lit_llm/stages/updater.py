"""The updates that a rollout makes, alike on all processes that share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor

from lit_llm.objectives.policy import masked_mean
from lit_llm.runtime.distributed import peers
from lit_llm.stages.base import Stage
from lit_llm.stages.options import RolloutOptions


class PolicyUpdater:
    """Shares a rollout out over updates and makes them. Every process calls these alike, or the others wait for it
    without end.

    Args:
        stage: whose optimizers they are; it drives its own optimization.
    """

    def __init__(self, stage: Stage, options: RolloutOptions) -> None:
        self.stage, self.options = stage, options

    def shares(self, rows: int, generator: torch.Generator) -> list[Tensor]:
        """The rows of a rollout, shuffled and shared out over the updates of an epoch; on the CPU, which packs them.

        A short rollout, at the end of the data, may have fewer rows than there are updates, and processes may hold
        different numbers of them: all make as many updates as the one with the fewest rows can.
        """
        order = torch.randperm(rows, generator=generator)
        fewest = -int(self.most_of_processes(torch.tensor(-rows)))
        return list(torch.tensor_split(order, min(self.options.minibatches, fewest)))

    def parts(self, share: Tensor) -> list[Tensor]:
        """An update's rows in as many forward passes as memory asks for.

        Where a pass is one of all processes, they make as many as the one that needs most; at the end of the data,
        where one holds fewer rows than that, as many as it can.
        """
        size = self.options.micro_batch_size or len(share)
        if self.stage.sharding is None:
            return list(torch.split(share, size))
        most = int(self.most_of_processes(torch.tensor(-(-len(share) // size))))
        fewest = -int(self.most_of_processes(torch.tensor(-len(share))))
        return list(torch.tensor_split(share, min(most, fewest)))

    def learn(
        self,
        networks: Iterable[str],
        plan: Sequence[Sequence[Tensor]],
        gradients: Callable[[Tensor, bool], dict[str, Tensor]],
    ) -> dict[str, float]:
        """All updates of a rollout: one for every share of rows in every epoch of ``plan``.

        ``networks`` names what each of the optimizers trains. ``gradients(rows, first)`` adds up a minibatch's
        gradients and returns its metrics, among them ``loss`` and ``policy/approx_kl``; ``first`` says that nothing was
        updated yet. Returns each metric's mean over the updates.
        """
        totals, done, limit = Counter[str](), 0, self.options.target_kl
        optimizers = self.stage.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for share in (share for epoch in plan for share in epoch):
            metrics = self.numbers(gradients(share, done == 0))
            for network, optimizer in zip(networks, optimizers, strict=True):
                trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
                norm = self.stage.finish_gradients(trained, 1.0, self.options.max_grad_norm, metrics["loss"])
                metrics[f"{network}/grad_norm"] = norm
                # Only one step of a rollout goes by way of Lightning, which counts them: its steps are rollouts.
                (optimizer if done == 0 and network == "policy" else optimizer.optimizer).step()
                optimizer.optimizer.zero_grad()
            done += 1
            totals.update(metrics)
            if limit is not None and metrics["policy/approx_kl"] > limit:
                break
        values = {name: total / done for name, total in totals.items()}
        values["lr"] = optimizers[0].optimizer.param_groups[0]["lr"]
        schedulers = self.stage.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()  # type: ignore[union-attr]
        return {**values, "updates": float(done)}

    def add_gradients(self, loss: Tensor, last: bool) -> None:
        """Adds the gradients of ``loss``, a part of a minibatch's.

        Processes wait for each other, and average, in a minibatch's ``last`` call alone: they may hold different
        numbers of micro batches, and a part of the loss may reach only some of the weights.
        """
        strategy = self.stage.trainer.strategy
        apart = isinstance(strategy, ParallelStrategy) and not last
        with strategy.block_backward_sync() if apart else nullcontext():  # type: ignore[attr-defined]
            self.stage.manual_backward(loss)

    def numbers(self, named: dict[str, Tensor]) -> dict[str, float]:
        """Means over ranks, so that all decide alike (to stop early, to drop an update), in one wait for the device."""
        stacked = torch.stack([value.detach().to(self.stage.device, torch.float32) for value in named.values()])
        return dict(zip(named, self.mean_of_processes(stacked).tolist(), strict=True))

    def mean(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean () of all processes' values, or of those under their masks, however many each has."""
        return masked_mean(values, torch.ones_like(values, dtype=torch.bool) if mask is None else mask,
                           self.sum_of_processes)  # fmt: skip

    def deviation(self, values: Tensor, mask: Tensor) -> Tensor:
        """The standard deviation () of all processes' values under their masks about their common mean."""
        return self.mean((values - self.mean(values, mask)).square(), mask).sqrt()

    def sum_of_processes(self, value: Tensor) -> Tensor:
        return self._reduced(value, "sum") / peers()  # which have each counted the same rows

    def mean_of_processes(self, value: Tensor) -> Tensor:
        return self._reduced(value, "mean")

    def most_of_processes(self, value: Tensor) -> Tensor:
        return self._reduced(value, "max")

    def _reduced(self, value: Tensor, how: str) -> Tensor:
        if self.stage.trainer.world_size == 1:
            return value
        reduced: Tensor = self.stage.trainer.strategy.reduce(value.to(self.stage.device, copy=True), reduce_op=how)
        return reduced
