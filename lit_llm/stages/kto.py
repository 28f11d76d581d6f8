"""Learning from completions that were called good or bad one by one (KTO, arXiv:2402.01306)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.errors import UserError
from lit_llm.objectives.preference import kto, kto_baseline
from lit_llm.records import LabelledBatch, PackedCompletions
from lit_llm.stages.initial_model import Policy
from lit_llm.stages.metric_sums import Sums
from lit_llm.stages.options import KTOOptions
from lit_llm.stages.reference import AgainstReference

log = logging.getLogger("lit_llm")

BALANCE = 1.0, 4 / 3
"""The paper's range (section 4.1) for good against bad, each counted with its weight."""


class KTO(AgainstReference):
    """Each completion alone is pushed up or down, against how far the policy has moved on completions of other prompts.

    Every micro batch brings each prompt with a completion of another one (``LabelledBatch.unrelated``): the mean
    log-ratio of those, no gradient through it and at least 0, is z of the loss. It takes one forward pass more.

    Args:
        options: ``KTOOptions``.

    Other arguments: ``AgainstReference``.
    """

    Options: ClassVar[type[KTOOptions]] = KTOOptions
    name: ClassVar[str] = "kto"
    batch_type: ClassVar[type] = LabelledBatch
    options: KTOOptions

    def __init__(
        self,
        options: KTOOptions | None = None,
        *,
        model: Policy,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__(options, model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        good, bad = data.training_weights() if hasattr(data, "training_weights") else (0.0, 0.0)
        if good and bad:
            self._tell_balance(good, bad)

    def _tell_balance(self, good: float, bad: float) -> None:
        """``good``, ``bad``: the sums of the completions' weights, which the loss adds up by."""
        desirable, undesirable = self.options.desirable_weight, self.options.undesirable_weight
        ratio = desirable * good / (undesirable * bad)
        low, high = BALANCE
        if ratio < low:
            log.warning(
                "KTO: %g good and %g bad completions; stage.desirable_weight=%.3g would balance them",
                *(good, bad, undesirable * bad / good),
            )
        elif ratio > high:
            log.warning(
                "KTO: %g good and %g bad completions; stage.undesirable_weight=%.3g would balance them",
                *(good, bad, desirable * good / bad),
            )

    def completions_in(self, batch: LabelledBatch) -> list[PackedCompletions]:
        """The batch's own, and the same prompts with completions of other prompts."""
        if batch.unrelated is None:
            raise UserError("labels: all completions answer one prompt; KTO needs those of two prompts or more")
        return [batch.completions, batch.unrelated]

    def loss(self, batch: LabelledBatch) -> tuple[Tensor, Tensor, Sums]:
        options, (own, unrelated) = self.options, self.completions_in(batch)
        logps, reference = self.logps_beside_reference(own, "labels")
        with torch.no_grad():
            drifted, start = self.logps_beside_reference(unrelated, "labels")
            drift = drifted - start
        baseline = kto_baseline(drift)
        log_ratios = logps - reference
        losses, rewards = kto(
            log_ratios, batch.labels, baseline, options.beta, options.desirable_weight, options.undesirable_weight
        )
        right = (log_ratios.detach() > baseline) == batch.labels
        return (batch.weights * losses).sum(), batch.weights.sum(), _sums(batch, logps, rewards, right, baseline)

    def derived(self, totals: dict[str, float]) -> dict[str, float]:
        """chosen: means over the good completions, rejected: over the bad; ``kl`` is z, a mean over micro batches."""
        good, bad = max(totals["good"], 1.0), max(totals["bad"], 1.0)
        values = {f"{name}/chosen": totals[f"{name}/chosen"] / good for name in ("rewards", "logps")}
        values |= {f"{name}/rejected": totals[f"{name}/rejected"] / bad for name in ("rewards", "logps")}
        return {
            "loss": totals["loss"] / max(totals["count"], 1e-9),
            **values,
            "rewards/margins": values["rewards/chosen"] - values["rewards/rejected"],
            "rewards/accuracies": totals["right"] / max(totals["good"] + totals["bad"], 1.0),
            "kl": totals["kl"] / max(totals["batches"], 1.0),
            "nll": -totals["logps/chosen"] / max(totals["good_tokens"], 1.0),
        }


def _sums(batch: LabelledBatch, logps: Tensor, rewards: Tensor, right: Tensor, baseline: Tensor) -> Sums:
    good, bad, logps = batch.good, batch.bad, logps.detach()
    return {
        "good": len(good),
        "bad": len(bad),
        "rewards/chosen": rewards[good].sum(),
        "rewards/rejected": rewards[bad].sum(),
        "logps/chosen": logps[good].sum(),
        "logps/rejected": logps[bad].sum(),
        "good_tokens": batch.completions.sizes[good].sum(),
        "right": right.sum(),
        "kl": baseline,
        "batches": 1,
    }
