"""The page's terms: what a measure is called, what it means, and which measures are shown first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

LABELS = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "nll": "negative log-likelihood",
    "chrf": "chrF",
    "bleu": "BLEU",
    "sentence_bleu": "BLEU of a sentence",
    "ended": "answers that end",
    "verbatim": "answers copied from training",
    "length": "answer length",
    "auroc": "AUROC",
    "brier": "Brier score",
    "ece": "calibration error",
    "accuracy_agreed": "accuracy where annotators agree",
    "accuracy_disputed": "accuracy where annotators differ",
    "score/reward": "learned reward",
    "score/gold": "gold reward",
    "score/rule": "reward by rule",
    "score/flagged": "flagged answers",
    "kl/answer": "KL in nats an answer",
}
"""What a measure is called where its own name in words does not do."""

TERMS = {
    "bits per byte": "How many bits the model needs for a byte of held-out text: how badly it predicts it. Less is "
    "better; it does not depend on the tokenizer.",
    "perplexity": "How many tokens the model hesitates between on average. Less is better.",
    "negative log-likelihood": "How improbable the model finds what is right, in nats. Less is better.",
    "ROUGE-1": "Words that an answer shares with the expected one, 0 to 1. More is better.",
    "ROUGE-2": "Pairs of neighbouring words that an answer shares with the expected one, 0 to 1. More is better.",
    "ROUGE-L": "The longest run of words, gaps allowed, that an answer shares with the expected one, 0 to 1. More is "
    "better.",
    "chrF": "Runs of letters that an answer shares with the expected one, 0 to 1. More is better.",
    "BLEU": "Runs of up to four words that all answers share with the expected ones. More is better.",
    "BLEU of a sentence": "BLEU of each answer by itself, averaged. More is better.",
    "exact match": "Share of answers that are the expected one, word for word.",
    "answers that end": "Share of answers that the model ends itself, before the limit of tokens.",
    "answers copied from training": "Share of answers that stand word for word in the training data. Less is better.",
    "answer length": "Tokens of an answer. Neither more nor less is better.",
    "accuracy": "Share of held-out items that the model decides as people, or the simulated annotators, did.",
    "accuracy where annotators agree": "Accuracy on the pairs that all annotators order alike.",
    "accuracy where annotators differ": "Accuracy on the pairs that annotators order differently.",
    "likelihood accuracy": "Share of ranked pairs whose better answer the model finds more probable.",
    "implicit accuracy": "Share of ranked pairs whose better answer became more probable, next to the other, than it "
    "was for the model that the stage started from. One half is chance.",
    "AUROC": "How often a flagged answer gets the higher score of two, one flagged and one not. One half is chance, 1 "
    "is perfect.",
    "average precision": "Precision averaged over all thresholds; chance is the share that is flagged.",
    "balanced accuracy": "The mean of sensitivity and specificity. One half is chance.",
    "sensitivity": "Share of flagged answers that the classifier finds.",
    "specificity": "Share of good answers that the classifier leaves alone.",
    "Brier score": "Mean squared error of a predicted probability. Less is better.",
    "calibration error": "How far predicted probabilities are from what then happens (ECE). Less is better.",
    "base rate": "Share of held-out answers that are flagged.",
    "learned reward": "What the reward model gives an answer: what alignment raises. Also called proxy.",
    "gold reward": "A second reward that judges the same answers and that no stage was trained on.",
    "reward by rule": "What a written rule gives an answer.",
    "proxy": "The learned reward, which stands for what people would say.",
    "flagged answers": "Share of answers that the flag classifier calls bad. Less is better.",
    "KL": "How far a model has moved from the one it started from, in nats. Neither more nor less is better.",
    "KL in nats an answer": "How far a model has moved from the one it started from, summed over an answer's tokens. "
    "Neither more nor less is better.",
    "length correlation": "How far a reward follows an answer's length alone.",
    "best of n": "Sample n answers and keep the one with the highest reward: no training.",
    "floor": "What a rule that needs no model reaches on the same items.",
    "ledger": "Every stage measured on the held-out data of every stage before it: what it gained, what it lost.",
    "standard error": "How far a mean would typically be off with other items of the same kind; the number after ±.",
    "held-out": "Set aside before training: no stage has learned from it.",
    "lineage": "What a model was made from, with a hash of every file.",
    "parameters": "Numbers in the model that training sets.",
}
"""What a term means, by the words that the page uses for it."""

RANK = (
    "score/reward",
    "implicit_accuracy",
    "auroc",
    "sensitivity",
    "specificity",
    "accuracy",
    "bits_per_byte",
    "score/gold",
    "rougeL",
    "likelihood_accuracy",
    "kl/answer",
    "score/rule",
    "ended",
    "accuracy_agreed",
    "verbatim",
    "exact_match",
    "score/flagged",
)
"""Which measures are shown first. Those that are not here say much the same as one that is."""

UNBOUNDED = ("bits_per_byte", "perplexity", "nll", "reward", "gold", "rule", "length", "answer")
"""Measures, by the last part of their name, that are no share of a whole: their changes are told in per cent."""


def label(measure: str) -> str:
    """A measure in words: "score/reward" is "learned reward"."""
    last = measure.rsplit("/", 1)[-1]
    return LABELS.get(measure) or LABELS.get(last) or measure.replace("_", " ")


def rank(measure: str) -> int:
    """Its place in ``RANK``; what is not there comes last."""
    return RANK.index(measure) if measure in RANK else len(RANK)


def ranked(measure: str) -> bool:
    return measure in RANK


def first(measures: Sequence[str], trained_for: str = "", count: int = 3) -> list[str]:
    """The measures to show, at most ``count``: ``trained_for``, then those of ``RANK``; one at least."""
    order = sorted(measures, key=lambda one: (one != trained_for, rank(one)))
    return [one for i, one in enumerate(order) if i == 0 or ranked(one)][:count]


@dataclass
class Marker:
    """Marks terms on a page, so that pointing at one or going to it by keyboard explains it; keeps which were used.

    A term's first place can be reached with the Tab key, the others by a click or a tap.
    """

    terms: Mapping[str, str] = field(default_factory=lambda: TERMS)
    used: list[str] = field(default_factory=list)

    def __call__(self, word: str, shown: str = "") -> Markup | str:
        """``shown``: the words on the page, where they are not the term itself."""
        if word not in self.terms:
            return shown or word
        index = -1 if word in self.used else 0
        if word not in self.used:
            self.used.append(word)
        abbr = Markup('<abbr title="{}" tabindex="{}">{}</abbr>')
        return abbr.format(self.terms[word], index, shown or word)

    def measure(self, name: str, starts: bool = False) -> Markup | str:
        """A measure by its name in metrics.json. ``starts``: a sentence, with a capital."""
        word = label(name)
        return self(word, word[:1].upper() + word[1:] if starts else word)

    def explained(self) -> list[tuple[str, str]]:
        """The terms that were marked so far, by name, and what they mean."""
        return [(word, self.terms[word]) for word in sorted(self.used, key=str.lower)]
