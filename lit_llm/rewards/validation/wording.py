"""A reward model's validation, from ``reward_validation.json``, as texts for the report and the model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lit_llm.text.attacks import ATTACKS


@dataclass(frozen=True)
class Row:
    """A floor or an attack. ``beside``: of a floor by how much the model is above it, of an attack its limit."""

    name: str
    value: str
    beside: str
    n: str
    result: str  # passed, failed, or only reported


@dataclass(frozen=True)
class ValidationTexts:
    passed: bool
    accuracy: str
    floors: tuple[Row, ...]
    attacks: tuple[Row, ...]
    reasons: tuple[str, ...]  # why it failed
    training: str


def validation_texts(values: Mapping[str, Any]) -> ValidationTexts:
    """``values``: the plain values of a ``ValidationResult``. What is missing in them is left out."""
    trained = bool(values.get("trained_with_attacks"))
    return ValidationTexts(
        passed=bool(values["passed"]),
        accuracy=_estimate(values.get("accuracy") or {}),
        floors=tuple(_floors(values.get("floors") or {})),
        attacks=tuple(_attacks(values.get("probes") or {})),
        reasons=tuple(str(reason) for reason in values["reasons"]),
        training="It was trained with attacks of these kinds, made with other strings."
        if trained
        else "It was not trained with attacks.",
    )


def _floors(floors: Mapping[str, Any]) -> Iterator[Row]:
    for name, floor in floors.items():
        lead = _estimate(floor.get("lead") or {}, sign=True)
        result = _result(floor.get("passed"), floor.get("counts", True))
        yield Row(name.replace("_", " "), _estimate(floor), lead, str(floor.get("n", "")), result)


def _attacks(probes: Mapping[str, Any]) -> Iterator[Row]:
    for name, probe in probes.items():
        share, se, limit = (probe.get(key) for key in ("share", "se", "limit"))
        error = "" if se is None else f" ± {100 * se:.1f}"
        value = "" if share is None else f"{100 * share:.1f}{error}%"
        most = "" if limit is None else f"{100 * limit:.0f}%"
        result = _result(probe.get("passed"), limit is None or limit < 1)  # a limit of 1 fails nothing
        yield Row(ATTACKS.get(name, name), value, most, str(probe.get("n", "")), result)


def _result(passed: Any, counts: bool) -> str:
    return "only reported" if not counts else "passed" if passed else "failed"


def _estimate(value: Mapping[str, Any], sign: bool = False) -> str:
    mean, se = value.get("mean"), value.get("se")
    if mean is None:
        return ""
    return f"{mean:{'+.3f' if sign else '.3f'}}" + ("" if se is None else f" ± {se:.3f}")
