"""What a run came to, in one sentence: the line before the last two of a run and of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_llm.config.run_objective import LOSS
from lit_llm.runtime.counted import counted

FIRST = ("score/reward", "accuracy", "bits_per_byte", "nll")  # what says most, of the sets that have it


def in_one_sentence(metrics: Mapping[str, Any]) -> str:
    """The stage, its steps, and one held-out number with its error, its items and what it was before."""
    done = f"{metrics['stage']}: {counted(metrics['steps'], 'step')} in {duration(metrics['seconds'])}"
    found = _measured(metrics)
    if found is None:
        loss = metrics.get("val_loss")
        which, value = ("validation", loss) if loss is not None else ("training", metrics.get("train_loss"))
        return f"{done}." if value is None else f"{done}; the {which} loss is {value:.4g}."
    group, name = found
    value = metrics["heldout"][group][name]
    error = f" ± {value['se']:.2g}" if value.get("se") is not None else ""
    before = (metrics.get("before") or {}).get(group, {}).get(name) or {}
    was = f", it was {before['mean']:.4g}" if before.get("mean") is not None else ""
    return f"{done}; {name} on held-out {group} is {value['mean']:.4g}{error} (n={value['n']}){was}."


def _measured(metrics: Mapping[str, Any]) -> tuple[str, str] | None:
    """Set and measure: what the run is compared by, else the first of ``FIRST``, else the first there is."""
    known = {
        (group, name): value
        for group, scores in (metrics.get("heldout") or {}).items()
        for name, value in scores.items()
        if value.get("mean") is not None
    }
    asked = (metrics.get("objective_of") or LOSS).removeprefix("-").partition("/")
    if (asked[0], asked[2]) in known:
        return asked[0], asked[2]
    told = [key for wanted in FIRST for key in known if key[1] == wanted]
    return next(iter([*told, *known]), None)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
