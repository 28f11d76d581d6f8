"""Near duplicates: how many of generated pairs are found, how many of those found are pairs, and megabytes a second.

The texts are those of ``pairs.py``: originals with an altered copy each, and texts that only look alike. datasketch's
MinHash and LSH take part where they are installed, with as many permutations, n-grams of as many words and the same
threshold; they give candidates, whose signatures estimate the similarity. Everything runs on one thread.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from benchmarks.command import say
from benchmarks.conditions import conditions
from benchmarks.deduplication.pairs import Corpus, corpus
from benchmarks.race import Contestant, race
from benchmarks.record import Goal, Record
from lit_llm.data.quality.minhash import VALUES
from lit_llm.data.quality.near_duplicates import WORDS, similar
from lit_llm.errors import UserError

Found = set[tuple[int, int]]
RECALL, PRECISION = 0.95, 0.99


@dataclass(frozen=True)
class Settings:
    """Finds generated near duplicates, here and with datasketch."""

    pairs: Annotated[int, "of an original and its copy"] = 20_000
    others: Annotated[int, "texts without a copy, most of them like others in part"] = 40_000
    threshold: Annotated[float, "as data.near_threshold"] = 0.8
    seed: Annotated[int, "of the texts"] = 0
    peers: Annotated[str, "installed, or nothing"] = "installed"
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 1
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        for name in ("pairs", "rounds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0")
        if self.others < 0:
            raise UserError(f"others={self.others}: must be at least 0")
        if not 0.3 <= self.threshold <= 1:
            raise UserError(f"threshold={self.threshold}: must be from 0.3 to 1")
        if self.peers not in ("installed", ""):
            raise UserError(f"peers={self.peers}: must be installed, or nothing")


def run(settings: Settings) -> Record:
    made = corpus(settings.pairs, settings.others, settings.seed)
    size = sum(len(text.encode()) for text in made.texts) / 1e6
    described = [
        f"{size:.1f} MB in {len(made.texts):,} texts, {settings.pairs:,} pairs of near duplicates among them; "
        f"threshold {settings.threshold}, n-grams of {WORDS} words",
        *conditions(1, "cpu", ("numpy", "datasketch")),
    ]
    say("\n".join(described))
    contestants = [
        Contestant(name, partial(Search, settings.pairs, settings.others, settings.seed, settings.threshold, search))
        for name, search in _searches(settings.peers)
    ]
    results = race(contestants, settings.rounds, seconds=0.0, threads=1, say=say)
    notes = [
        f"{each.name}: recall {each.numbers['recall']:.4f}, precision {each.numbers['precision']:.4f}; "
        + "; ".join(f"{kind} {each.numbers[kind]:.4f}" for kind in sorted(set(made.kinds)))
        for each in results
    ]
    here = next(each for each in results if each.name == "here")
    met = here.numbers["recall"] >= RECALL and here.numbers["precision"] >= PRECISION
    notes.append(f"wanted are a recall of {RECALL} and a precision of {PRECISION}: {'met' if met else 'missed'}")
    goals = [Goal("near duplicates", "here", [each.name for each in contestants if each.name != "here"])]
    title = f"near duplicates, {settings.pairs:,} pairs in {len(made.texts):,} texts"
    return Record("deduplication", "MB", described, results, goals, notes, asdict(settings), title=title)


class Search:
    """A contestant: all texts searched once a call."""

    def __init__(
        self, pairs: int, others: int, seed: int, threshold: float, search: Callable[[Sequence[str], float], Found]
    ) -> None:
        self.made, self.threshold, self.search = corpus(pairs, others, seed), threshold, search
        self.units = sum(len(text.encode()) for text in self.made.texts) / 1e6
        self.found: Found = set()

    def __call__(self) -> None:
        self.found = self.search(self.made.texts, self.threshold)

    def numbers(self) -> dict[str, float]:
        """Recall, of all pairs and of each kind, and precision."""
        return measured(self.made, self.found)


def measured(made: Corpus, found: Found) -> dict[str, float]:
    kinds = {(min(pair), max(pair)): kind for pair, kind in zip(made.pairs, made.kinds, strict=True)}
    right = found & kinds.keys()
    by_kind, total = Counter(kinds[pair] for pair in right), Counter(made.kinds)
    shares = {kind: by_kind[kind] / number for kind, number in total.items()}
    return {"recall": len(right) / len(kinds), "precision": len(right) / max(1, len(found)), **shares}


def _searches(peers: str) -> Iterator[tuple[str, Callable[[Sequence[str], float], Found]]]:
    yield "here", here
    if peers and find_spec("datasketch"):
        yield "datasketch", datasketch


def here(texts: Sequence[str], threshold: float) -> Found:
    found = similar(texts, threshold, priority=[text.encode("utf-8", "surrogatepass") for text in texts])
    return {(min(pair), max(pair)) for pair in found.pairs.tolist()}


def datasketch(texts: Sequence[str], threshold: float) -> Found:
    """As its documentation says: every text's n-grams, its signature, and a query for each before it is inserted."""
    from datasketch import MinHash, MinHashLSH  # type: ignore[import-not-found, unused-ignore]

    index = MinHashLSH(threshold=threshold, num_perm=VALUES)
    signatures: list[MinHash] = []
    found: Found = set()
    for number, text in enumerate(texts):
        words = re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text.casefold())
        signature = MinHash(num_perm=VALUES)
        signature.update_batch([" ".join(words[at : at + WORDS]).encode() for at in range(len(words) - WORDS + 1)])
        signatures.append(signature)
        for other in index.query(signature):
            if signature.jaccard(signatures[other]) >= threshold:
                found.add((other, number))
        index.insert(number, signature)
    return found
