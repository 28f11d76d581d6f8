"""Learning from completions that were called good or bad one by one (KTO, arXiv:2402.01306)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.lora import TARGETS
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.objectives.options import check_kto
from lit_llm.objectives.preference import kto, kto_baseline
from lit_llm.records import LabelledBatch
from lit_llm.stages.label_checks import check_labels
from lit_llm.stages.reference import AgainstReference, completion_logps
from lit_llm.stages.reference_store import Completions

log = logging.getLogger("lit_llm")

BALANCE = 1.0, 4 / 3
"""The paper's range (section 4.1) for good against bad, each counted with its weight."""


class KTO(AgainstReference):
    """Each completion alone is pushed up or down, against how far the policy has moved on completions of other prompts.

    Every micro batch brings each prompt with a completion of another one (``LabelledBatch.unrelated_ids``): the mean
    log-ratio of those, no gradient through it and at least 0, is z of the loss. It takes one forward pass more.

    Args:
        beta: how dear it is to leave the reference.
        desirable_weight, undesirable_weight: of good and of bad completions; where there are many more of one kind,
            weigh the other up until the weighted ratio of good to bad is from 1 to 4/3.

    Other arguments: ``AgainstReference``.
    """

    name: ClassVar[str] = "kto"
    batch_type: ClassVar[type] = LabelledBatch

    def __init__(
        self,
        *,
        model: LanguageModel,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        tokenizer: Any = None,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        reference_cache: bool = False,
        reference_logps: str | None = None,
        lora_rank: int = 0,
        lora_alpha: float = 32.0,
        lora_targets: Sequence[str] = TARGETS,
        base_model: str | None = None,
    ) -> None:
        check_kto(beta, desirable_weight, undesirable_weight)
        super().__init__(
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            tokenizer=tokenizer,
            reference_cache=reference_cache,
            reference_logps=reference_logps,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_targets=lora_targets,
            base_model=base_model,
        )
        self.beta, self.desirable_weight, self.undesirable_weight = beta, desirable_weight, undesirable_weight
        self.remember(beta=beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        good, bad = data.training_weights() if hasattr(data, "training_weights") else (0.0, 0.0)
        if good and bad:
            self._tell_balance(good, bad)

    def _tell_balance(self, good: float, bad: float) -> None:
        """``good``, ``bad``: the sums of the completions' weights, which the loss adds up by."""
        ratio = self.desirable_weight * good / (self.undesirable_weight * bad)
        low, high = BALANCE
        if ratio < low:
            log.warning(
                "KTO: %g good and %g bad completions; stage.desirable_weight=%.3g would balance them",
                *(good, bad, self.undesirable_weight * bad / good),
            )
        elif ratio > high:
            log.warning(
                "KTO: %g good and %g bad completions; stage.undesirable_weight=%.3g would balance them",
                *(good, bad, self.desirable_weight * good / bad),
            )

    def completions_in(self, batch: LabelledBatch) -> list[Completions]:
        """The batch's own, and the same prompts with completions of other prompts."""
        if batch.unrelated_ids is None or batch.unrelated_lengths is None:
            raise UserError("labels: all completions answer one prompt; KTO needs those of two prompts or more")
        return [
            Completions(batch.input_ids, batch.prompt_lengths, batch.lengths),
            Completions(batch.unrelated_ids, batch.prompt_lengths, batch.unrelated_lengths),
        ]

    def loss(self, batch: LabelledBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        check_labels(batch, self.model.config.vocab_size, self.model.config.max_positions)
        own, unrelated = self.completions_in(batch)
        logps, reference = completion_logps(self.model, own), self.under_reference(own)
        self.check_start(logps, reference, batch.lengths - batch.prompt_lengths)
        with torch.no_grad():
            drift = completion_logps(self.model, unrelated) - self.under_reference(unrelated)
        baseline = kto_baseline(drift)
        log_ratios = logps - reference
        losses, rewards = kto(
            log_ratios, batch.labels, baseline, self.beta, self.desirable_weight, self.undesirable_weight
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


def _sums(batch: LabelledBatch, logps: Tensor, rewards: Tensor, right: Tensor, baseline: Tensor) -> dict[str, Tensor]:
    good, logps = batch.labels, logps.detach()
    return {
        "good": good.sum(),
        "bad": (~good).sum(),
        "rewards/chosen": rewards[good].sum(),
        "rewards/rejected": rewards[~good].sum(),
        "logps/chosen": logps[good].sum(),
        "logps/rejected": logps[~good].sum(),
        "good_tokens": (batch.lengths - batch.prompt_lengths)[good].sum(),
        "right": right.sum(),
        "kl": baseline,
        "batches": torch.ones(()),
    }
