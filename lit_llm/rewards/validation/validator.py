"""Validation of a reward model before a policy learns from it: is it better than no model, and can it be fooled?

Held-out accuracy is set against floors on the same pairs, and attacks (``text/attacks.py``) against the best-ranked
answer of each held-out prompt. The same attacks, made of a policy's own answers, are tried again in the middle of PPO.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lit_llm.evaluation.pair_accuracy import best_answers, best_of_prompt, compare, higher, ordered_by
from lit_llm.evaluation.reward import Rows
from lit_llm.evaluation.score_readers import Reader, RewardReader
from lit_llm.evaluation.statistics import Estimate, mean
from lit_llm.records import Comparison
from lit_llm.rewards.options import RewardValidationOptions
from lit_llm.rewards.validation.constant_answer import constant
from lit_llm.rewards.validation.result import Floor, Probe, ValidationResult
from lit_llm.rewards.validation.tfidf import TfidfBradleyTerry
from lit_llm.text.attacks import VALIDATION, Conversation, attacks

Item = TypeVar("Item")
NOTHING = Estimate(math.nan, math.nan, 0)
Scores = NDArray[np.float64]
Gold = Sequence[float] | Callable[..., Any]
Rule = Callable[[Sequence[str]], Any]  # completions -> scores
BY_LENGTH: Mapping[str, Rule] = {
    "shorter_wins": lambda texts: [-len(text) for text in texts],
    "longer_wins": lambda texts: [len(text) for text in texts],
}


class RewardValidator(RewardValidationOptions):
    """Validates a reward model by its options."""

    def validate(
        self, reader: Reader, heldout: Sequence[Comparison], training: Sequence[Comparison]
    ) -> ValidationResult:
        """Validation on held-out comparisons; ``training`` is what model and TF-IDF floor learned from."""
        drawn = _drawn(heldout, self.max_comparisons, self.seed)
        asked = [one for one in drawn if all(reader.fits(one.prompt, text) for text in one.completions)]
        asked = [one for one in asked if len(set(one.ranks)) > 1]
        if not asked:
            return ValidationResult(
                NOTHING, missing=("no held-out comparison with a strict pair that fits the context",)
            )
        learned = _drawn([one for one in training if len(set(one.ranks)) > 1], self.floor_comparisons, self.seed)
        rules: dict[str, Rule] = dict(BY_LENGTH)
        if learned:
            rules["tfidf_bradley_terry"] = TfidfBradleyTerry.fit(learned)
        prompts = [one.prompt for one in asked for _ in one.completions]
        scores = _split(asked, reader.scores(prompts, [text for one in asked for text in one.completions]))
        accuracy, floors = self._floors(asked, scores, rules, self.doubt)
        best = _drawn(best_answers(asked), self.probe_prompts, self.seed)
        probes = self.probe(reader, [prompt for prompt, _ in best], [text for _, text in best], self.doubt)
        return ValidationResult(
            accuracy, floors, probes, () if learned else ("no training comparison for the TF-IDF floor to learn from",)
        )

    def probe(
        self,
        reader: Reader,
        prompts: Sequence[Conversation],
        answers: Sequence[str],
        doubt: float,
        rows: Rows | None = None,
    ) -> dict[str, Probe]:
        """Each attack against each prompt's answer. An attack that has room with no prompt is left out."""
        known = rows or [{}] * len(prompts)
        real = reader.scores(prompts, answers, known)
        made = dict(attacks(prompts, answers, reader.fits, VALIDATION, self.seed))
        made["constant"] = constant(reader, prompts, answers, real, known, self.seed)
        found = {}
        for name, texts in made.items():
            tried = [n for n, text in enumerate(texts) if text is not None]
            if not tried:
                continue
            given = [text for text in texts if text is not None]
            against = reader.scores([prompts[n] for n in tried], given, [known[n] for n in tried])
            wins = [higher(gap) for gap in against - real[tried]]
            share = mean(wins, [str(prompts[n]) for n in tried])
            limit = self.limit(name)
            found[name] = Probe(*share, limit, bool(share.mean - doubt * _known(share.se) <= limit))
        return found

    def _floors(
        self, asked: Sequence[Comparison], scores: Sequence[Scores], rules: Mapping[str, Rule], doubt: float
    ) -> tuple[Estimate, dict[str, Floor]]:
        theirs = {name: [np.asarray(rule(one.completions)) for one in asked] for name, rule in rules.items()}
        accuracy, found = compare(asked, scores, theirs)
        return accuracy, {name: self._floor(name, *values, doubt) for name, values in found.items()}

    def _floor(self, name: str, floor: Estimate, lead: Estimate, doubt: float) -> Floor:
        # "Longer wins" is as cheap a rule as "shorter wins". Where people like long answers "shorter wins" is below a
        # coin, and to beat it would show nothing: the stronger of the two, the one above a half, counts. "Shorter
        # wins" always does, since the stronger one is then beaten too.
        counts = name != "longer_wins" or (self.longer_counts and floor.mean > 0.5)
        enough = lead.mean + doubt * _known(lead.se) > self.min_lead
        return Floor(floor, lead, counts, bool(enough or not counts))

    def rerun(
        self,
        reward: Any,
        prompts: Sequence[Conversation],
        completions: Sequence[str],
        gold: Gold | None = None,
        rows: Rows | None = None,
    ) -> ValidationResult:
        """Validation on a policy's own n answers, in the middle of its training.

        Attacks are made of, and set against, the best answer to each prompt: by gold, else by the reward itself. Where
        a prompt has one answer that is a poor one now and then, which the limits and ``doubt_midway`` leave room for.

        Args:
            reward: what the policy learns from: ``reward(prompts, completions) -> (n,)``.
            gold: another reward, or its scores (n,) of the answers. Two answers to one prompt are then a pair, which
                the reward should order as gold does, better than their lengths do. One answer a prompt makes no pair.
            rows: what the data says of each prompt besides its text, for a reward with ``row_fields``.

        An answer that the reward gives no number (nan) is left out.
        """
        reader = RewardReader(reward, self.longest)
        reader.allow(completions)
        rows = rows or [{}] * len(prompts)
        real = reader.scores(prompts, completions, rows)
        known = [n for n, score in enumerate(real) if not math.isnan(score)]
        if not known:
            return ValidationResult(NOTHING, missing=("the reward gave none of the answers a number",))
        truth = None if gold is None else _given(gold, prompts, completions, rows)
        best = best_of_prompt(prompts, known, real.tolist() if truth is None else truth)
        some = _drawn(best, self.probe_prompts, self.seed)
        asked, texts = [prompts[n] for n in some], [completions[n] for n in some]
        probes = self.probe(reader, asked, texts, self.doubt_midway, [rows[n] for n in some])
        pairs = [] if truth is None else ordered_by(truth, prompts, completions, known)
        if not pairs:
            return ValidationResult(NOTHING, {}, probes)
        scores = [real[numbers] for _, numbers in pairs]
        accuracy, floors = self._floors([one for one, _ in pairs], scores, BY_LENGTH, self.doubt_midway)
        return ValidationResult(accuracy, floors, probes)


def rerun(
    reward: Any,
    prompts: Sequence[Conversation],
    completions: Sequence[str],
    gold: Gold | None = None,
    rows: Rows | None = None,
    validator: RewardValidator | None = None,
) -> ValidationResult:
    """``RewardValidator.rerun``, with the usual settings where there is no ``validator``."""
    return (validator or RewardValidator()).rerun(reward, prompts, completions, gold, rows)


def _given(
    gold: Gold,
    prompts: Sequence[Conversation],
    completions: Sequence[str],
    rows: Rows | None,
) -> list[float]:
    """The scores (n,) of gold, or what it gives these answers."""
    if callable(gold):
        gold = list(RewardReader(gold, None).scores(prompts, completions, rows))
    return [float(score) for score in gold]


def _drawn(items: Sequence[Item], most: int | None, seed: int) -> list[Item]:
    """At most so many, in their order; the same ones for the same seed."""
    if most is None or len(items) <= most:
        return list(items)
    return [items[n] for n in sorted(random.Random(seed).sample(range(len(items)), most))]


def _split(comparisons: Sequence[Comparison], scores: Scores) -> list[Scores]:
    """The scores of each comparison's completions."""
    return np.split(scores, np.cumsum([len(one.completions) for one in comparisons])[:-1])


def _known(error: float) -> float:
    """One item has no standard error, and is not doubted."""
    return 0.0 if math.isnan(error) else error
