"""Learning directly from ranked completions: DPO and its family, against a frozen reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.errors import UserError
from lit_llm.objectives.preference import PairLosses, Pairs, PreferenceLoss, dpo
from lit_llm.records import PackedCompletions, RankingBatch
from lit_llm.stages.initial_model import Policy
from lit_llm.stages.metric_sums import Sums
from lit_llm.stages.options import PreferenceOptions
from lit_llm.stages.reference import AgainstReference


class PreferenceOptimization(AgainstReference):
    """A batch's prompts and completions are read once each; every strict pair counts alike, and every prompt once.

    Tied completions make no pair, and a prompt whose completions are all tied is not counted.

    Args:
        loss: of ``Pairs``, one of ``objectives.preference`` or one's own; where the data has margins, also of
            ``margins=(M,)``; with an attribute ``reference_free = True``
            it needs no reference, and none is kept.

    Other arguments: ``AgainstReference``.
    """

    name: ClassVar[str] = "preference_optimization"
    batch_type: ClassVar[type] = RankingBatch

    def __init__(
        self,
        options: PreferenceOptions | None = None,
        *,
        model: Policy,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        tokenizer: Any = None,
        loss: PreferenceLoss = dpo,
    ) -> None:
        _try_out(loss)
        super().__init__(
            options,
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            tokenizer=tokenizer,
            needs_reference=not getattr(_bare(loss), "reference_free", False),
        )
        self.pair_loss = loss

    def completions_in(self, batch: RankingBatch) -> list[PackedCompletions]:
        return [batch.completions]

    def loss(self, batch: RankingBatch) -> tuple[Tensor, Tensor, Sums]:
        logps, reference = self.logps_beside_reference(batch.completions, "rankings")
        sizes, (winners, losers) = batch.completions.sizes, batch.pairs
        pairs = Pairs(
            logps[winners], logps[losers], reference[winners], reference[losers], sizes[winners], sizes[losers]
        )
        prompts = batch.groups[winners]
        losses = self._losses(pairs, None if batch.margins is None else batch.margins[prompts])
        weights = batch.weights.float()  # bfloat16 where all else is: it counts to 256
        per_prompt = torch.zeros_like(weights).index_add_(0, prompts, torch.ones_like(prompts, dtype=weights.dtype))
        total = (losses.losses * (weights / per_prompt.clamp_min(1))[prompts]).sum()
        return total, (weights * (per_prompt > 0)).sum(), _sums(pairs, losses)

    def _losses(self, pairs: Pairs, margins: Tensor | None) -> PairLosses:
        """Of M pairs, with the margins (M,) where there are any."""
        if margins is None:
            return self.pair_loss(pairs)
        if "margins" not in signature(self.pair_loss).parameters:
            bare = _bare(self.pair_loss)
            name = getattr(bare, "__name__", type(bare).__name__)
            raise UserError(
                f"loss: {name} takes no margins and the data has some (field 'margin'); use loss@stage.loss=dpo, or "
                "leave the field out"
            )
        return self.pair_loss(pairs, margins=margins)  # type: ignore[call-arg]

    def derived(self, totals: dict[str, float]) -> dict[str, float]:
        """Everything but the loss is a mean over pairs; ``nll`` is over the tokens of the chosen completions."""
        pairs = max(totals["pairs"], 1.0)
        values = {name: totals[name] / pairs for name in totals if "/" in name}
        nll = -totals["logps/chosen"] / max(totals["chosen_tokens"], 1.0)
        return {"loss": totals["loss"] / max(totals["count"], 1e-9), **values, "nll": nll}


def _sums(pairs: Pairs, losses: PairLosses) -> Sums:
    margins = losses.chosen_rewards - losses.rejected_rewards
    return {
        "pairs": len(margins),
        "rewards/chosen": losses.chosen_rewards.sum(),
        "rewards/rejected": losses.rejected_rewards.sum(),
        "rewards/accuracies": (margins > 0).sum() + (margins == 0).sum() / 2,
        "rewards/margins": margins.sum(),
        "logps/chosen": pairs.chosen.detach().sum(),
        "logps/rejected": pairs.rejected.detach().sum(),
        "chosen_tokens": pairs.chosen_tokens.sum(),
    }


def _bare(loss: PreferenceLoss) -> Any:
    """The loss without the options that it was given."""
    return loss.func if isinstance(loss, partial) else loss


def _try_out(loss: PreferenceLoss) -> None:
    """Raises now, not at the first step, when the loss refuses its options."""
    one = torch.full((1,), -1.0)
    loss(Pairs(one, one, one, one, torch.ones(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)))
