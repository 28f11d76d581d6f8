"""Learning directly from ranked completions: DPO and its family, against a frozen reference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.heads import LanguageModel
from lit_llm.errors import UserError
from lit_llm.objectives.language import completion_labels, token_logps
from lit_llm.objectives.preference import PairLosses, Pairs, PreferenceLoss, dpo
from lit_llm.objectives.ranking import strict_pairs
from lit_llm.records import RankingBatch
from lit_llm.stages.base import Stage
from lit_llm.stages.ranking_checks import check_rankings, row_keys

MARGIN_TOLERANCE = 0.05
"""How far policy and reference may differ at the start, in nats a completion's token: bfloat16's noise is below it."""


class PreferenceOptimization(Stage):
    """One forward pass for each completion; every strict pair of a prompt counts alike, every prompt once.

    The reference is a frozen copy of ``model`` as given, left out of checkpoints; its log-probability of a completion
    is computed once, when the completion first comes, and reused in later epochs.

    Args:
        model: a language model, the instruction-tuned one.
        loss: of ``Pairs``, one of ``objectives.preference`` or one's own; with an attribute ``reference_free = True``
            it needs no reference, and none is kept.
    """

    name: ClassVar[str] = "preference_optimization"
    batch_type: ClassVar[type] = RankingBatch
    left_out: ClassVar[tuple[str, ...]] = ("reference",)
    model: LanguageModel

    def __init__(
        self,
        *,
        model: LanguageModel,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        tokenizer: Any = None,
        loss: PreferenceLoss = dpo,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        self.pair_loss = loss
        function = loss.func if isinstance(loss, partial) else loss
        self.reference: LanguageModel | None = None
        if not getattr(function, "reference_free", False):
            self.reference = copy.deepcopy(model).requires_grad_(False).eval()
        self._reference_logps: dict[bytes, float] = {}
        self._checked = False
        _try_out(loss)
        self.train()
        self.remember(loss=getattr(function, "__name__", type(function).__name__))

    def train(self, mode: bool = True) -> PreferenceOptimization:  # noqa: ARG002
        """Stays in evaluation mode: with dropout on, policy and reference would differ from the start."""
        return super().train(False)

    def loss(self, batch: RankingBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        check_rankings(batch, self.model.config.vocab_size, self.model.config.max_positions)
        labels = completion_labels(batch.input_ids, batch.prompt_lengths, batch.lengths)
        logps = _completion_logps(self.model, batch, labels)
        reference = self._reference(batch, labels, logps)
        self._check_start(batch, logps, reference)
        winners, losers = strict_pairs(batch.groups, batch.ranks)
        sizes = batch.lengths - batch.prompt_lengths
        pairs = Pairs(
            logps[winners], logps[losers], reference[winners], reference[losers], sizes[winners], sizes[losers]
        )
        losses = self.pair_loss(pairs)
        prompts = batch.groups[winners]
        per_prompt = torch.zeros_like(batch.weights).index_add_(0, prompts, torch.ones_like(losses.losses))
        total = (losses.losses * (batch.weights / per_prompt.clamp_min(1))[prompts]).sum()
        return total, (batch.weights * (per_prompt > 0)).sum(), _sums(pairs, losses)

    def derived(self, totals: dict[str, float]) -> dict[str, float]:
        """Everything but the loss is a mean over pairs; ``nll`` is over the tokens of the chosen completions."""
        pairs = max(totals["pairs"], 1.0)
        values = {name: totals[name] / pairs for name in totals if "/" in name}
        nll = -totals["logps/chosen"] / max(totals["chosen_tokens"], 1.0)
        return {"loss": totals["loss"] / max(totals["count"], 1e-9), **values, "nll": nll}

    @torch.no_grad()
    def _reference(self, batch: RankingBatch, labels: Tensor, logps: Tensor) -> Tensor:
        """The reference's log-probabilities (N,): known, or computed now; zeros without one."""
        if self.reference is None:
            return torch.zeros_like(logps)
        keys = row_keys(batch)
        if not all(key in self._reference_logps for key in keys):
            values = _completion_logps(self.reference, batch, labels).tolist()
            self._reference_logps.update(zip(keys, values, strict=True))
        return torch.tensor([self._reference_logps[key] for key in keys], device=logps.device)

    def _check_start(self, batch: RankingBatch, logps: Tensor, reference: Tensor) -> None:
        """Before the first update policy and reference are one: every margin must be 0."""
        if self._checked or self.reference is None:
            return
        self._checked = True
        if self.trainer.global_step > 0:
            return
        gap = ((logps.detach() - reference) / (batch.lengths - batch.prompt_lengths)).abs().max().item()
        if not gap < MARGIN_TOLERANCE:
            raise UserError(
                f"DPO's start: policy and reference differ by {gap:.3g} nats a token before the first update, and "
                "should not at all; was one of them changed since the stage was made?"
            )


def _completion_logps(model: LanguageModel, batch: RankingBatch, labels: Tensor) -> Tensor:
    """Log-probability of each completion, summed over its tokens: (N,)."""
    return token_logps(model(batch.input_ids), model.output_weight, labels).sum(1)


def _sums(pairs: Pairs, losses: PairLosses) -> dict[str, Tensor]:
    margins = losses.chosen_rewards - losses.rejected_rewards
    return {
        "pairs": torch.tensor(len(margins)),
        "rewards/chosen": losses.chosen_rewards.sum(),
        "rewards/rejected": losses.rejected_rewards.sum(),
        "rewards/accuracies": (margins > 0).sum(),
        "rewards/margins": margins.sum(),
        "logps/chosen": pairs.chosen.detach().sum(),
        "logps/rejected": pairs.rejected.detach().sum(),
        "chosen_tokens": pairs.chosen_tokens.sum(),
    }


def _try_out(loss: PreferenceLoss) -> None:
    """Raises now, not at the first step, when the loss refuses its options."""
    one = torch.full((1,), -1.0)
    loss(Pairs(one, one, one, one, torch.ones(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)))
