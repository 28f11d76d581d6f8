"""The options of losses: what stands below ``stage.loss.`` in a configuration, and what of policies' and KTO's losses
can be told apart from tensors. ``pairs`` or ``scores`` come first in a loss: those of comparisons, those of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lit_llm.errors import UserError
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import FACTOR, WEIGHT, Range

SCALES = ("none", "group", "batch")
AGGREGATIONS = ("token_mean", "sequence_mean", "constant")
RATIOS = ("token", "sequence")


@dataclass(frozen=True, kw_only=True)
class PairLossOptions(Options):
    """What the losses of DPO's family have."""

    GROUP: ClassVar[str] = "loss"
    GIVEN: ClassVar[tuple[str, ...]] = ("pairs",)


@dataclass(frozen=True, kw_only=True)
class HingeOptions(PairLossOptions):
    TARGET: ClassVar[str] = "lit_llm.objectives.preference.hinge"
    RANGES: ClassVar[Mapping[str, Range]] = {"beta": Range(0, 10**4, above=True)}

    beta: float = 0.1  # how dear it is to leave the reference


@dataclass(frozen=True, kw_only=True)
class IPOOptions(HingeOptions):
    TARGET: ClassVar[str] = "lit_llm.objectives.preference.ipo"


@dataclass(frozen=True, kw_only=True)
class RobustDPOOptions(HingeOptions):
    TARGET: ClassVar[str] = "lit_llm.objectives.preference.robust_dpo"
    RANGES: ClassVar[Mapping[str, Range]] = {"label_smoothing": Range(0, 0.5, below=True)}

    label_smoothing: float = 0.1  # share of labels known to be flipped; below 0.5


@dataclass(frozen=True, kw_only=True)
class DPOOptions(RobustDPOOptions):
    TARGET: ClassVar[str] = "lit_llm.objectives.preference.dpo"

    label_smoothing: float = 0.0  # share of labels taken as wrong; below 0.5
    length_normalized: bool = False  # log-ratios are means over a completion's tokens (Tulu 3, with beta 5)


@dataclass(frozen=True, kw_only=True)
class SimPOOptions(RobustDPOOptions):
    TARGET: ClassVar[str] = "lit_llm.objectives.preference.simpo"
    RANGES: ClassVar[Mapping[str, Range]] = {"gamma": WEIGHT}

    beta: float = 2.0  # of the difference of the mean log-probabilities
    gamma: float = 1.0  # by how much the chosen one must be ahead
    label_smoothing: float = 0.0  # share of labels taken as wrong; below 0.5


@dataclass(frozen=True, kw_only=True)
class ORPOOptions(PairLossOptions):
    TARGET: ClassVar[str] = "lit_llm.objectives.preference.orpo"
    RANGES: ClassVar[Mapping[str, Range]] = {"lambda_": FACTOR}

    lambda_: float = 0.1  # weight of the odds ratio


@dataclass(frozen=True, kw_only=True)
class PlackettLuceOptions(Options):
    """The likelihood of the whole ranking; tied completions do not compete."""

    TARGET: ClassVar[str] = "lit_llm.objectives.ranking.plackett_luce"
    GROUP: ClassVar[str] = "loss"
    GIVEN: ClassVar[tuple[str, ...]] = ("scores", "groups", "ranks", "weights")


@dataclass(frozen=True, kw_only=True)
class BradleyTerryOptions(PlackettLuceOptions):
    """All pairs of a prompt's ranked completions."""

    TARGET: ClassVar[str] = "lit_llm.objectives.ranking.bradley_terry"
    RANGES: ClassVar[Mapping[str, Range]] = {"centering": WEIGHT, "margin": WEIGHT}

    centering: float = 0.0  # 0.01 keeps scores near zero
    margin: float = 0.0  # by how much the better one must be ahead


def check_beta(beta: float, label_smoothing: float = 0.0, name: str = "beta") -> None:
    """Raises UserError for options of a loss of pairs that cannot be."""
    if not beta > 0:
        raise UserError(f"loss.{name}: {beta}; must be above 0")
    if not 0 <= label_smoothing < 0.5:
        raise UserError(f"loss.label_smoothing: {label_smoothing}; must be at least 0 and below 0.5")


def check_ratio(ratio: str, delta: float | None, eps_high: float) -> None:
    """Raises UserError for a ratio of another kind, or a bound that would cut into the clip's range."""
    if ratio not in RATIOS:
        raise UserError(f"ratio: {ratio}; must be one of {', '.join(RATIOS)}")
    if delta is not None and not 1 + eps_high < delta < math.inf:
        raise UserError(f"delta: {delta}; must be above 1 + eps_high = {1 + eps_high:g}, or null")


def check_kto(beta: float, desirable_weight: float, undesirable_weight: float) -> None:
    """Raises UserError for options that cannot be."""
    for name, value in {
        "beta": beta,
        "desirable_weight": desirable_weight,
        "undesirable_weight": undesirable_weight,
    }.items():
        if not (0 < value < math.inf):
            raise UserError(f"stage.{name}: {value}; must be above 0")
