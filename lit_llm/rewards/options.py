"""The options of every reward, and of a reward model's validation: what stands below ``stage.reward.`` (``gold``,
``scorers``) and ``stage.reward_validation.`` in a configuration, and what the classes are made of."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lit_llm.errors import UserError
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import COUNT, ROWS, SECONDS, SEED, SHARE, SOME, WEIGHT, Range

HOW = ("mean", "min", "mean_minus_std")
WHERE = ("search", "match", "fullmatch")
UNITS = ("words", "characters", "tokens")
RESERVED = (
    *("kl", "kl_coef", "scores", "scores_std", "non_score_reward", "rlhf_reward", "response_length", "eos_rate"),
    *("unverified", "zero_std_groups", "truncated"),
)
"""Names that a stage logs itself under ``objective/``, and beside them ``pass@1``, ``pass@2``, ..."""


@dataclass(frozen=True, kw_only=True)
class RewardOptions(Options):
    """What all rewards have: nothing yet."""

    GROUP: ClassVar[str] = "reward"


# Reward models


@dataclass(frozen=True, kw_only=True)
class LearnedOptions(RewardOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.learned.LearnedReward"
    RANGES: ClassVar[Mapping[str, Range]] = {"batch_size": ROWS}

    folder: str  # of a reward model (made by stage=reward_modeling)
    batch_size: int = 64  # rows scored at once


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions(RewardOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.ensemble.Ensemble"
    RANGES: ClassVar[Mapping[str, Range]] = {"std_coef": WEIGHT, "batch_size": ROWS}

    folders: Sequence[str]  # two or more reward models' folders
    # Of their scores the mean; min, worst-case optimisation (arXiv:2310.02743, equation 3); or mean_minus_std,
    # uncertainty-weighted (equation 4), with the standard deviation in the variance's place, since it is in the score's
    # unit.
    how: Literal["mean", "min", "mean_minus_std"] = "mean"
    std_coef: float = 1.0  # weight of the disagreement in mean_minus_std
    batch_size: int = 64  # rows scored at once

    def check(self) -> None:
        super().check()
        if self.how not in HOW:
            raise self.wrong("how", "must be mean, min or mean_minus_std")
        if len(self.folders) < 2 or len(set(self.folders)) < len(self.folders):
            raise UserError(f"reward.folders: {list(self.folders)}; give two or more different folders")


@dataclass(frozen=True, kw_only=True)
class FlagProbabilityOptions(RewardOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.flags.FlagProbability"
    RANGES: ClassVar[Mapping[str, Range]] = {"batch_size": ROWS}

    folder: str  # of a flag classifier (made by stage=flag_classification)
    batch_size: int = 64  # rows scored at once


@dataclass(frozen=True, kw_only=True)
class FlagRateOptions(FlagProbabilityOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.flags.FlagRate"


# Functions and sums


@dataclass(frozen=True, kw_only=True)
class FunctionOptions(RewardOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.function.FunctionReward"
    RANGES: ClassVar[Mapping[str, Range]] = {"batch_size": ROWS}

    function: str  # its dotted path, also of a module in the folder that the command is started in
    batch_size: int | None = None  # answers given at once; None: all of a rollout


@dataclass(frozen=True, kw_only=True)
class WeightedSumOptions(RewardOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.weighted.WeightedSum"
    RANGES: ClassVar[Mapping[str, Range]] = {"parts.weight": Range(-(10**6), 10**6)}

    parts: Mapping[str, Any]  # NAME: {reward: a reward of this group, weight: 1.0}

    def check(self) -> None:
        super().check()
        if not self.parts:
            raise UserError("reward.parts: none; give {name: {reward: ..., weight: 1.0}}")
        for name in self.parts:
            self.weight(name)

    def weight(self, name: str) -> float:
        """Of a part; 1 where it is left out."""
        part = self.parts[name]
        if name in RESERVED or name.startswith("pass@") or "/" in name:
            raise UserError(f"reward.parts.{name}: objective/{name} is logged already, or no name; take another name")
        if not isinstance(part, Mapping) or "reward" not in part or set(part) - {"reward", "weight"}:
            raise UserError(f"reward.parts.{name}: must be {{reward: ..., weight: 1.0}}")
        weight = part.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise UserError(f"reward.parts.{name}.weight: {weight}; must be a finite number")
        return float(weight)


# Verifiers


@dataclass(frozen=True, kw_only=True)
class ExactAnswerOptions(RewardOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.verifiers.ExactAnswer"
    RANGES: ClassVar[Mapping[str, Range]] = {"tolerance": WEIGHT}

    tag: str = "answer"  # of the prompt, with the right answer; not verified where a prompt has none
    tolerance: float = 0.0  # by how much a number may be off
    strict: bool = False  # only an answer marked by #### or \boxed{} counts


@dataclass(frozen=True, kw_only=True)
class LengthOptions(RewardOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.verifiers.Length"
    RANGES: ClassVar[Mapping[str, Range]] = {"least": COUNT, "most": COUNT, "margin": COUNT}

    unit: str = "words"  # between white space; or characters, tokens
    least: int | None = None  # bounds, both included; None: no such bound
    most: int | None = None  # the upper one
    margin: int = 0  # from 1 at a bound to 0 this far beyond it, linearly; 0: nothing beyond
    tokenizer: str | None = None  # folder of the model whose tokens are counted, for unit tokens

    def check(self) -> None:
        super().check()
        if self.unit not in UNITS:
            raise self.wrong("unit", "must be words, characters or tokens")
        if self.least is None and self.most is None:
            raise UserError("reward.least, reward.most: both null; give at least one bound")
        low, high = self.bounds()
        if low < 0 or high < low:
            raise UserError(f"reward.least={self.least}, reward.most={self.most}: least must be from 0 to most")
        if self.unit == "tokens" and self.tokenizer is None:
            raise UserError("reward.tokenizer: null; to count tokens, name the model's folder")

    def bounds(self) -> tuple[float, float]:
        return self.least or 0, math.inf if self.most is None else self.most


@dataclass(frozen=True, kw_only=True)
class WordCountOptions(RewardOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.verifiers.WordCount"

    tag: str = "words"  # of the prompt, with the number
    # Where there is no such tag: finds the number in the user's last turn, as its first group; not verified where there
    # is none either.
    pattern: str = r"(\d+) words?\b"
    # 1 - |words - n| / n, not below 0, so that nearer is better; the share that is right is logged as exact.
    partial: bool = False

    def check(self) -> None:
        super().check()
        if compiled(self.pattern).groups < 1:
            raise UserError(f"reward.pattern: {self.pattern} has no group; put the number in parentheses")


@dataclass(frozen=True, kw_only=True)
class FormatOptions(RewardOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.verifiers.Format"

    contains: Sequence[str] = ()  # texts that must occur
    # How the whole answer is built, with {names} for what is free (not empty), such as
    # '<think>{reasoning}</think><answer>{answer}</answer>'. White space does not count, and each of its fixed texts
    # occurs only where it stands in the template.
    template: str | None = None
    json: bool = False  # the whole answer must be JSON
    all_or_nothing: bool = False  # 1 where everything holds, else 0

    def check(self) -> None:
        super().check()
        if not self.contains and self.template is None and not self.json:
            raise UserError("reward: format asks for nothing; give contains, template or json")
        if isinstance(self.contains, str) or not all(self.contains):
            raise UserError(f"reward.contains: {self.contains!r}; must be a list of texts, none of them empty")
        self.pieces()

    def pieces(self) -> list[str] | None:
        """The fixed texts of the template, without white space; between two of them stands something free."""
        if self.template is None:
            return None
        pieces = ["".join(piece.split()) for piece in re.split(r"\{\w+\}", self.template)]
        if len(pieces) < 2 or not any(pieces):
            raise UserError(f"reward.template: {self.template!r}; needs fixed text and at least one {{name}}")
        if not all(pieces[1:-1]):
            raise UserError(
                f"reward.template: {self.template!r} has two names with nothing between them; put a text there"
            )
        return pieces


@dataclass(frozen=True, kw_only=True)
class RegularExpressionOptions(RewardOptions):
    TARGET: ClassVar[str] = "lit_llm.rewards.regular_expression.RegularExpression"
    RANGES: ClassVar[Mapping[str, Range]] = {"seconds": SECONDS}

    pattern: str  # in Python's syntax; (?s) before it lets a dot take line ends, (?i) ignores case
    where: str = "search"  # anywhere; match: from the beginning; fullmatch: the whole answer
    seconds: float = 1.0  # for one answer; a search that takes longer is not verified

    def check(self) -> None:
        super().check()
        self.one_of("where", WHERE)
        compiled(self.pattern)


def compiled(pattern: str) -> re.Pattern[str]:
    """Raises UserError for what is no regular expression."""
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"reward.pattern: {pattern} is no regular expression ({error})") from None


# Validation of a reward model


@dataclass(frozen=True, kw_only=True)
class RewardValidationOptions(Options):
    """What is asked of a reward model, and what is enough."""

    TARGET: ClassVar[str] = "lit_llm.rewards.validation.validator.RewardValidator"
    GROUP: ClassVar[str] = "reward_validation"
    KEY: ClassVar[str] = "stage.reward_validation"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "max_comparisons": SOME, "floor_comparisons": SOME, "probe_prompts": SOME, "min_lead": Range(-1, 1),
        "doubt": Range(0, 100), "doubt_midway": Range(0, 100), "longest": SOME, "seed": SEED,
        "limit_empty": SHARE, "limit_long": SHARE, "limit_repeated": SHARE, "limit_shuffled": SHARE,
        "limit_sentinels": SHARE, "limit_gibberish": SHARE, "limit_constant": SHARE,
    }  # fmt: skip

    max_comparisons: int | None = 1000  # held-out ones, drawn with a fixed seed where there are more; None: all
    floor_comparisons: int = 20_000  # training comparisons that the TF-IDF floor learns from at most
    probe_prompts: int = 200  # held-out prompts that are attacked at most
    # Accuracy must be above each floor by more than this. With 0 a tie fails: what a count of characters or words does
    # as well is not worth a policy's training, and drives it to that count.
    min_lead: float = 0.0
    # Standard errors of its lead by which the reward model may be below all the same; likewise of the attacks' shares.
    # 0 takes the numbers as they are, so that a small held-out set is no excuse.
    doubt: float = 0.0
    # The same on the policy's own answers in the middle of PPO, where one rollout's are few and looked at many times.
    doubt_midway: float = 2.0
    # Shares of prompts on which an attack of text/attacks.py may outscore the best answer; a coin is at 0.5, 1 lets it
    # pass. Four are allowed more than the rest: a repeated good answer still holds the answer, and a vague one may suit
    # another prompt as well.
    limit_empty: float = 0.2  # an empty answer
    limit_long: float = 0.3  # the best answer repeated until the context is full
    limit_repeated: float = 0.3  # its first sentence 8 times
    limit_shuffled: float = 0.4  # the best answer to another prompt
    limit_sentinels: float = 0.2  # text that looks like control tokens
    limit_gibberish: float = 0.2  # random letters
    # One real answer given to every prompt: the one that scores best among half of the prompts, tried on the other
    # half. It may be better than most of what a weak model answers, so that a true taste can be above a half too.
    limit_constant: float = 0.7
    longest: int | None = 1024  # tokens of an attack with its prompt, where the context is longer; None: the context
    longer_counts: bool = True  # "longer wins" is a floor where it is right more often than not; else only reported
    seed: int = 0  # of what is drawn

    def limit(self, attack: str) -> float:
        """The share of prompts on which an attack may outscore the best answer."""
        return float(getattr(self, f"limit_{attack}"))
