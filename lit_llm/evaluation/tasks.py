"""How near an answer is to a reference: exact match, ROUGE, BLEU, chrF, and what costs no model at all (the floors).

ROUGE is torchmetrics', with words cut by Unicode's rules, so that it is not 0 for every script but Latin. BLEU and chrF
are computed here from counts per item, which standard errors need; the tests hold them to torchmetrics.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torchmetrics.functional.text import rouge_score

from lit_llm.evaluation.statistics import Estimate

Array = NDArray[np.float64]

_WORD = re.compile(r"[^\W_]+")
_BLEU_TOKEN = re.compile(r"\w+|[^\w\s]")
_SENTENCE = re.compile(r"\s*(.+?[.!?؟。](?=\s|$)|[^\n]+)", re.DOTALL)
BLEU_ORDER = 4
CHRF_ORDER, CHRF_BETA = 6, 2.0


def text_scores(answers: Sequence[str], references: Sequence[str]) -> dict[str, Array]:
    """(n,) of each measure, 0 to 1: rouge1, rouge2, rougeL (F-measures), chrf, sentence_bleu, exact_match."""
    scores: dict[str, list[float]] = {}
    for answer, reference in zip(answers, references, strict=True):
        one = {**rouge(answer, reference), "chrf": chrf(answer, reference)}
        one["sentence_bleu"] = sentence_bleu(answer, reference)
        one["exact_match"] = float(squeezed(answer) == squeezed(reference))
        for name, value in one.items():
            scores.setdefault(name, []).append(value)
    return {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}


def rouge(answer: str, reference: str) -> dict[str, float]:
    """rouge1, rouge2 and rougeL as F-measures (Lin 2004); words in lower case, without punctuation."""
    if squeezed(answer) == squeezed(reference) and _WORD.search(answer):
        # Equal texts are common (templates): 1 without counting, but a text of one word has no pair of words.
        return {"rouge1": 1.0, "rouge2": float(len(_words(answer)) > 1), "rougeL": 1.0}
    found = rouge_score(
        answer, reference, rouge_keys=("rouge1", "rouge2", "rougeL"), normalizer=str.lower, tokenizer=_words
    )
    return {name: float(found[f"{name}_fmeasure"]) for name in ("rouge1", "rouge2", "rougeL")}


def chrf(answer: str, reference: str) -> float:
    """chrF2 of one pair (Popović 2015): mean over n = 1..6 of the F2 of character n-grams, white space left out."""
    one, two = "".join(answer.split()), "".join(reference.split())
    total = 0.0
    for n in range(1, CHRF_ORDER + 1):
        ours, theirs = _ngrams(one, n), _ngrams(two, n)
        common = sum((ours & theirs).values())
        if common:
            precision, recall = common / sum(ours.values()), common / sum(theirs.values())
            total += (1 + CHRF_BETA**2) * precision * recall / (CHRF_BETA**2 * precision + recall)
    return total / CHRF_ORDER


def sentence_bleu(answer: str, reference: str) -> float:
    """BLEU of one pair, one added to the counts of n > 1 (Lin and Och 2004), since most sentences match no 4-gram."""
    counts = bleu_counts(answer, reference)
    matched, possible = counts[:BLEU_ORDER].copy(), counts[BLEU_ORDER : 2 * BLEU_ORDER].copy()
    matched[1:] += 1
    possible[1:] += 1
    return float(_bleu(np.concatenate([matched, possible, counts[2 * BLEU_ORDER :]])[None])[0])


def corpus_bleu(answers: Sequence[str], references: Sequence[str], resamples: int = 300) -> Estimate:
    """BLEU of all pairs together (Papineni et al. 2002), 0 to 1; its error by resampling pairs (Koehn 2004)."""
    counts = np.array([bleu_counts(a, r) for a, r in zip(answers, references, strict=True)])
    if not len(counts):
        return Estimate(float("nan"), float("nan"), 0)
    index = np.random.default_rng(0).integers(0, len(counts), size=(resamples, len(counts)))
    draws = _bleu(counts[index].sum(axis=1))
    return Estimate(float(_bleu(counts.sum(axis=0)[None])[0]), float(draws.std(ddof=1)), len(counts))


def bleu_counts(answer: str, reference: str) -> Array:
    """(10,): matched n-grams and possible ones for n = 1..4, words of the answer, words of the reference."""
    ours, theirs = _BLEU_TOKEN.findall(answer), _BLEU_TOKEN.findall(reference)
    matched, possible = [], []
    for n in range(1, BLEU_ORDER + 1):
        mine = _ngrams(tuple(ours), n)
        matched.append(sum((mine & _ngrams(tuple(theirs), n)).values()))
        possible.append(sum(mine.values()))
    return np.array([*matched, *possible, len(ours), len(theirs)], dtype=np.float64)


def _bleu(counts: Array) -> Array:
    """(R,) from summed counts (R, 10): brevity penalty times the geometric mean of the precisions."""
    matched, possible = counts[:, :BLEU_ORDER], counts[:, BLEU_ORDER : 2 * BLEU_ORDER]
    ours, theirs = counts[:, -2], counts[:, -1]
    good = (matched > 0).all(axis=1)
    logs = np.log(np.where(matched > 0, matched, 1) / np.maximum(possible, 1)).mean(axis=1)
    penalty = np.where(ours > theirs, 0.0, 1 - theirs / np.maximum(ours, 1))
    return np.where(good, np.exp(logs + penalty), 0.0)


def copy_first_sentence(source: str) -> str:
    """The floor that only copies: the source's first sentence, or its first line."""
    found = _SENTENCE.match(source)
    return found.group(1).strip() if found else ""


def most_frequent(targets: Iterable[str] | Mapping[str, int]) -> str:
    """The floor that never reads the source: the commonest target (of equally common ones the first seen).

    ``targets``: as they come, or how often each comes.
    """
    counts = Counter(targets)
    return counts.most_common(1)[0][0] if counts else ""


def squeezed(text: str) -> str:
    """The text with its white space made single: what counts as the same answer."""
    return " ".join(text.split())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _ngrams(items: Sequence[str], n: int) -> Counter[Sequence[str]]:
    return Counter(items[i : i + n] for i in range(len(items) - n + 1))
