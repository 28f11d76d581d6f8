"""Which curves stand together in one chart, by tag, so that a new stage's curves show without a change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from lit_llm.report.charts import Line, line_chart, number
from lit_llm.report.curves import Curve, paired

GROUPS: tuple[tuple[str, str], ...] = (
    ("Loss", r"(train/loss|val/(.+/)?loss)"),
    ("Bits per byte", r"(train/bits_per_byte|val/(.+/)?bits_per_byte)"),
    ("Reward", r"objective/(scores?|rlhf_reward|reward|rule|true_rule|true_reward)"),
    ("KL to the reference", r"(objective/kl|policy/approx_kl)"),
    ("Entropy", r"(policy|objective)/entropy"),
    ("Answers that end (EOS rate)", r".*(eos_rate|ended)"),
    ("Answer length in tokens", r".*(response_length|completion_length|/length)"),
    ("Accuracy", r"(train|val)/(.+/)?accurac(y|ies)"),
    ("Preference margin", r"(train|val|rewards)/(.+/)?margins?"),
    ("Implicit rewards", r"(train/)?rewards/(chosen|rejected)"),
    ("Clipped share", r"(policy|val)/clipfrac"),
    ("Explained variance", r"val/explained_variance"),
    ("Learning rate", r"(train/lr|lr-.*)"),
)
"""Charts in this order; a tag goes to the first that matches. What matches none is shown under "more"."""

NOT_SHOWN = re.compile(r"(epoch|step|hp_metric|hp/.*|overoptimization/.*)")  # the last has no steps
ROWS = 8  # of the table of values under a chart


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup
    columns: tuple[str, ...]  # the table of values: "step" and one per line
    rows: tuple[tuple[str, ...], ...]
    lost: int = 0  # values that were not finite
    legend: tuple[str, ...] = ()  # the lines' names, where there is more than one


def figures(curves: Mapping[str, Curve]) -> tuple[list[Figure], list[Figure]]:
    """The charts of one stage: those of ``GROUPS``, and one for every other tag."""
    left = {tag: curve for tag, curve in curves.items() if not NOT_SHOWN.fullmatch(tag)}
    main = []
    for title, pattern in GROUPS:
        chosen = [tag for tag in left if re.fullmatch(pattern, tag)]
        if chosen:
            main.append(_figure(title, [left.pop(tag) for tag in chosen]))
    return main, [_figure(tag, [curve]) for tag, curve in sorted(left.items())]


def reward_against_kl(curves: Mapping[str, Curve]) -> Iterator[Figure]:
    """Reward over the distance from the reference, for every kind of reward that was logged at the KL's steps."""
    kl = next((curves[tag] for tag in ("objective/kl", "train/kl", "policy/approx_kl") if tag in curves), None)
    if kl is None:
        return
    for tag, curve in curves.items():
        points = paired(kl, curve)
        if re.fullmatch(GROUPS[2][1], tag) and len(points) > 1:
            line = Line(
                label(tag),
                tuple((x, y) for _, x, y in points),
                notes=tuple(f"step {step}" for step, _, _ in points),
            )
            title = f"{label(tag)} against KL"
            rows = _sampled([(number(step), number(x), number(y)) for step, x, y in points])
            svg = line_chart(title, [line], x_label="KL to the reference, nats per answer", path=True)
            yield Figure(title, svg, ("step", "KL", label(tag)), rows)


def label(tag: str) -> str:
    """A tag in words: "val/general/loss" is "held-out general"; the chart's title says what it is."""
    parts = tag.split("/")
    if parts[0] == "train":
        return "training" if len(parts) == 2 else " ".join(parts[1:]).replace("_", " ")
    if parts[0] == "val" and len(parts) > 2:
        return "validation " + "/".join(parts[1:-1]).replace("_", " ")
    return parts[-1].replace("_", " ")


def _figure(title: str, curves: list[Curve]) -> Figure:
    names = [label(curve.tag) for curve in curves]
    if len(set(names)) < len(names):
        names = [curve.tag for curve in curves]
    points = [tuple(zip(map(float, curve.steps), curve.values, strict=True)) for curve in curves]
    lines = [Line(names[i] if len(names) > 1 else "", points[i], smooth=True) for i in range(len(names))]
    steps = sorted({step for curve in curves for step in curve.steps})
    values = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    rows = [(number(s), *(number(at[s]) if s in at else "" for at in values)) for s in steps]
    svg = line_chart(title, lines)
    legend = tuple(names) if len(names) > 1 else ()
    return Figure(title, svg, ("step", *names), _sampled(rows), sum(curve.lost for curve in curves), legend)


def _sampled(rows: list[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    if len(rows) <= ROWS:
        return tuple(rows)
    return tuple(rows[round(i * (len(rows) - 1) / (ROWS - 1))] for i in range(ROWS))
