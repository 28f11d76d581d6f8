"""What people say of the pipeline's models, blind; and what was left out of the chain, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_llm.report.reading import PipelineRun


@dataclass(frozen=True)
class Verdict:
    """How often people took an answer of ``after`` for better than one of ``before``, not knowing which is which."""

    after: str
    before: str
    share: str
    bounds: str
    counts: str
    words: str
    of_this_chain: bool = True  # False: on other models than this pipeline's


def verdict(file: Mapping[str, Any]) -> Verdict | None:
    """``file``: win_rate.json, {"mean", "low", "high", "n", "wins", "ties", "losses", "after", "before"} and
    "of_this_chain"."""
    if not all(isinstance(file.get(key), int | float) for key in ("mean", "low", "high")):
        return None
    low, high = float(file["low"]), float(file["high"])
    after, before = str(file.get("after") or "the model after"), str(file.get("before") or "the one before")
    words = (
        f"The interval holds one half: these judgements do not tell which of the two is better, {after} or {before}."
    )
    if low > 0.5 or high < 0.5:
        better, worse = (after, before) if low > 0.5 else (before, after)
        words = f"People prefer {better} to {worse}: the interval does not hold one half."
    counts = ", ".join(f"{file[key]} {key}" for key in ("wins", "ties", "losses") if key in file)
    bounds, ours = f"{100 * low:.1f} to {100 * high:.1f}%", file.get("of_this_chain") is not False
    return Verdict(after, before, f"{100 * file['mean']:.1f}%", bounds, counts, words, ours)


def skipped(run: PipelineRun) -> list[tuple[str, str]]:
    """(step, why) of what the chain was made without."""
    return [(str(name), str(why)) for name, why in (run.summary.get("skipped") or {}).items()]
