"""The result of an evaluation: every measure item by item, so that two models can be compared on the same items."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_llm.errors import UserError
from lit_llm.evaluation.statistics import Estimate, ratio
from lit_llm.records import Heldout
from lit_llm.runtime.atomic_files import write_json

BINARY = ("exact_match", "ended", "verbatim", "flagged")
LOWER_IS_BETTER = ("bits_per_byte", "perplexity", "nll", "brier", "ece", "verbatim", "flagged", "flag_probability")
FEWEST_SOURCES = 20
NEITHER = ("length", "length_correlation", "base_rate", "answer")  # kl/answer: how far is no merit


class Measured(NamedTuple):
    """One measure on n items: its value is sum(values) / sum(weights), weights being 1 for a plain mean."""

    numbers: NDArray[np.int64]  # which item of the held-out set
    values: NDArray[np.float64]
    weights: NDArray[np.float64]


class Answer(NamedTuple):
    """What a model said to an item."""

    number: int
    text: str
    ended: bool  # with an end token, not at the limit


@dataclass(frozen=True)
class Scores:
    """A model on a held-out set.

    ``items`` holds the measures that are means (or ratios) over items; ``whole`` those of the set as a whole (BLEU,
    perplexity, calibration). ``floors`` are the same measures of what needs no model, ``above_floors`` the model's
    less a floor's, item by item. ``clusters`` names, for each item, what it is not independent of (its function, its
    prompt).
    """

    name: str
    kind: str
    items: dict[str, Measured]
    clusters: dict[int, str]
    whole: dict[str, Estimate] = field(default_factory=dict)
    floors: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    answers: tuple[Answer, ...] = ()
    above_floors: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    sources: dict[int, str] = field(default_factory=dict)  # file and line, page or row of each item, where known

    @property
    def summary(self) -> dict[str, Estimate]:
        """Every measure with its standard error, clustered."""
        return {name: self.estimate(name) for name in self.items} | self.whole

    def estimate(self, measure: str) -> Estimate:
        return self._ratio(self.items[measure])

    def _ratio(self, found: Measured) -> Estimate:
        return ratio(found.values, found.weights, [self.clusters[int(n)] for n in found.numbers])

    def with_floors(self, floors: Mapping[str, Mapping[str, Measured]]) -> Scores:
        """The same scores and these floors of the same items, summed up with the same clusters."""
        found, above = {}, {}
        for floor, values in floors.items():
            found[floor] = {name: self._ratio(value) for name, value in values.items()}
            pairs = {name: (self.items[name], value) for name, value in values.items() if name in self.items}
            gaps = {name: ours._replace(values=ours.values - theirs.values) for name, (ours, theirs) in pairs.items()}
            above[floor] = {name: self._ratio(gap) for name, gap in gaps.items()}
        return dataclasses.replace(self, floors=self.floors | found, above_floors=self.above_floors | above)

    def with_sources(self, heldout: Heldout) -> Scores:
        """The same scores with the place in the data that each item is from."""
        places = {number: heldout.items[number].source for number in self.clusters}
        return dataclasses.replace(self, sources={number: place for number, place in places.items() if place})

    def as_metrics(self) -> dict[str, dict[str, Any]]:
        """For metrics.json: {measure: {"mean", "se", "n"}}, se null where one item cannot tell."""
        return {name: as_plain(value) for name, value in self.summary.items()}

    def floors_as_metrics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """{floor: {measure: {"mean", "se", "n", "above": {"mean", "se", "n"}}}}: the floor's value, and how much more
        the model has on the same items, where it is a mean over items."""
        found = {
            floor: {name: as_plain(value) for name, value in values.items()} for floor, values in self.floors.items()
        }
        for floor, values in self.above_floors.items():
            for name, value in values.items():
                found[floor][name]["above"] = as_plain(value)
        return found

    def save(self, path: str | Path) -> None:
        """Writes one JSON file; numbers keep 7 digits."""
        content = {
            "name": self.name,
            "kind": self.kind,
            "items": {name: {k: _list(v) for k, v in m._asdict().items()} for name, m in self.items.items()},
            "clusters": self.clusters,
            "whole": {name: as_plain(value) for name, value in self.whole.items()},
            "floors": self.floors_as_metrics(),
            "answers": [list(answer) for answer in self.answers],
            "sources": self.sources,
        }
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(path), content, indent=None)

    @classmethod
    def load(cls, path: str | Path) -> Scores:
        """Reads what ``save`` wrote. Raises UserError for a file that is something else."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(
                content["name"],
                content["kind"],
                {name: _measured(value) for name, value in content["items"].items()},
                {int(number): cluster for number, cluster in content["clusters"].items()},
                {name: _estimate(value) for name, value in content["whole"].items()},
                {f: {name: _estimate(v) for name, v in values.items()} for f, values in content["floors"].items()},
                tuple(Answer(*answer) for answer in content["answers"]),
                {
                    f: {name: _estimate(v["above"]) for name, v in values.items() if "above" in v}
                    for f, values in content["floors"].items()
                },
                {int(number): place for number, place in content.get("sources", {}).items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not the scores of an evaluation ({error!r}); evaluate again") from None


def clusters_of(heldout: Heldout, numbers: Sequence[int]) -> dict[int, str]:
    """What each item is not independent of: its function, its prompt, its module; others stand alone.

    A document's ``source`` may also be one of few corpora, which as clusters tell nothing: it needs to have
    ``FEWEST_SOURCES`` values.
    """
    found = {}
    of_sources = _sources_are_many(heldout)
    for n in numbers:
        item = heldout.items[n]
        if heldout.kind in ("rankings", "labels", "flags"):
            found[n] = "\n".join(message.content for message in item.prompt)
        else:
            found[n] = item.tags.get("function") or (of_sources and item.tags.get("source")) or str(n)
    return found


def _sources_are_many(heldout: Heldout) -> bool:
    """Whether documents say of what they are a part, and are parts of enough for an error from those."""
    if heldout.kind != "documents":
        return False
    sources = {item.tags.get("source") for item in heldout.items} - {None}
    return len(sources) >= FEWEST_SOURCES


def measured(numbers: Any, values: Any, weights: Any = None) -> Measured:
    """Arrays out of lists; a weight of 1 where none is given."""
    x = np.asarray(values, dtype=np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64)
    return Measured(np.asarray(numbers, dtype=np.int64), x, w)


def direction(measure: str) -> int:
    """1 where more is better, -1 where less is, 0 where neither."""
    name = measure.rsplit("/", 1)[-1]
    return 0 if name in NEITHER else -1 if name in LOWER_IS_BETTER else 1


def as_plain(value: Estimate) -> dict[str, Any]:
    finite = [None if not math.isfinite(x) else x for x in (value.mean, value.se)]
    return {"mean": finite[0], "se": finite[1], "n": value.n}


def _estimate(value: Mapping[str, Any]) -> Estimate:
    mean, se = (math.nan if value[key] is None else float(value[key]) for key in ("mean", "se"))
    return Estimate(mean, se, int(value["n"]))


def _measured(value: Mapping[str, Any]) -> Measured:
    return measured(value["numbers"], value["values"], value["weights"])


def _list(values: NDArray[Any]) -> list[Any]:
    return [int(x) if float(x).is_integer() else float(f"{x:.7g}") for x in values.tolist()]
