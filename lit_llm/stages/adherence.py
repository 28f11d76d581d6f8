"""How closely each annotator holds to the common order of the answers, learned with the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_llm.errors import UserError
from lit_llm.objectives.ranking import gamma_prior


class Adherence(nn.Module):
    """A factor above 0 for each annotator: what multiplies the scores in the likelihood of that annotator's rankings.

    Above 1 the annotator separates answers more clearly than most, near 0 the ranking is noise. A Gamma prior (of mean
    1 where shape and rate are equal) pins the common scale. Each epoch counts the prior of every annotator once, in
    equal parts over the annotator's comparisons, so that the sum of the minibatch losses is the posterior's.
    R's PlackettLuce (0.4.5) counts it once for every ranking: ``Gamma(1 + n (shape - 1), n rate)`` here is the same.

    Args:
        names: the annotators, in the order of ``RankingBatch.annotators``.
        counts: comparisons of each in an epoch of training, by name; who has none stays at 1.
        shape, rate: of the prior.
    """

    def __init__(self, names: Sequence[str], counts: Mapping[str, int], shape: float, rate: float) -> None:
        super().__init__()
        self.names, self.shape, self.rate = tuple(names), shape, rate
        self.log_values = nn.Parameter(torch.zeros(len(names)))
        parts = [1.0 / counts[name] if counts.get(name) else 0.0 for name in names]
        self.register_buffer("parts", torch.tensor(parts), persistent=False)
        self.parts: Tensor

    def forward(self, annotators: Tensor) -> Tensor:
        """The factors (P,) of these annotators (P,)."""
        return self.log_values[annotators].exp()

    def prior(self, annotators: Tensor) -> Tensor:
        """What the comparisons of these annotators (P,) add to the loss."""
        each = gamma_prior(self.log_values, self.shape, self.rate) * self.parts
        return each[annotators].sum()

    def comparisons(self) -> dict[str, int]:
        """{annotator: comparisons in an epoch of training}, in the factors' order."""
        parts = self.parts.tolist()
        return {name: round(1 / part) if part else 0 for name, part in zip(self.names, parts, strict=True)}

    def by_name(self) -> dict[str, float]:
        """{annotator: factor}; who is not named stands as "unnamed"."""
        return dict(zip((name or "unnamed" for name in self.names), self.log_values.exp().tolist(), strict=True))


def adherence_of(datamodule: Any, shape: float, rate: float) -> Adherence:
    """Made for those who ranked the data. Raises UserError where it does not say who, or names fewer than two."""
    names = tuple(getattr(datamodule, "annotators", ()))
    if sum(bool(name) for name in names) < 2:
        known = ", ".join(name for name in names if name) or "nobody"
        raise UserError(
            f"stage.adherence: learned, but the data names {known}; it compares annotators, so two or more are "
            "needed (the field 'annotator' of each row), or stage.adherence=none"
        )
    return Adherence(names, datamodule.training_comparisons_by, shape, rate)


def add_to(optimizer: Optimizer, adherence: Adherence, lr: float) -> None:
    """A parameter group of its own, with no decay and a rate far above the network's: a few numbers, each of which
    moves by about ``lr`` a step at the schedule's peak."""
    settings = next(group for group in optimizer.param_groups if not group.get("muon"))
    kept = {key: value for key, value in settings.items() if key not in ("params", "initial_lr")}
    optimizer.add_param_group({**kept, "params": [adherence.log_values], "lr": lr, "weight_decay": 0.0})
