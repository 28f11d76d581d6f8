"""What each part of the best recipe is worth: it is taken out, and everything else stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from benchmarks.to_loss.course import Course, Mark
from benchmarks.to_loss.training import Recipe


@dataclass(frozen=True)
class Variant:
    """The best with a part taken out; ``longer``: times the best's steps, with which it was seen to arrive."""

    name: str
    recipe: Recipe
    longer: float


def variants(best: Recipe) -> list[Variant]:
    """Where what takes a part's place has values of its own, they were chosen as the best's were."""
    return [
        Variant("nanoGPT's architecture", replace(best, model="nanogpt", heads=4), 1.6),
        Variant("no QK-norm", replace(best, qk_norm=False), 1.6),
        Variant("4 heads", replace(best, heads=4), 1.0),
        Variant("AdamW for Muon", replace(best, optimizer="adamw", lr=0.008), 4.0),
        Variant("nanoGPT's schedule", replace(best, schedule="cosine"), 1.2),
        Variant("fp32", replace(best, bf16=False), 1.0),
        Variant("twice the batch", replace(best, rows=2 * best.rows), 0.8),
        Variant("windows drawn independently", replace(best, repeated=True), 1.1),
        Variant("5 Newton-Schulz steps", replace(best, newton_schulz_steps=5), 1.0),
        Variant("momentum 0.95", replace(best, momentum=0.95), 1.2),
    ]


@dataclass(frozen=True)
class Trial:
    """A seed of a variant: the best, the variant with as many steps, and with enough of them, trained by turns."""

    target: float
    best: Course
    same: Course
    longer: Course

    @property
    def arrived(self) -> Mark | None:
        """Where the variant first had the target's loss: the sooner of its two trainings."""
        marks = [mark for each in (self.same, self.longer) if (mark := each.reached(self.target)) is not None]
        return min(marks, key=lambda mark: mark.seconds, default=None)


def ablation_table(trials: Mapping[str, Sequence[Trial]]) -> Iterator[list[str]]:
    """A table: mean and standard deviation over the seeds, and times against the best's of the same turns."""
    steps = next(iter(trials.values()))[0].best.recipe.steps
    yield ["taken out", f"loss, {steps} steps", "a step", "steps there", "time there"]
    for name, seeds in trials.items():
        losses = _spread([each.same.last.loss for each in seeds], 4)
        cost = mean(_step_seconds(each.same) / _step_seconds(each.best) for each in seeds)
        yield [name, losses, f"{cost:.2f}", *_there(seeds)]


def _there(seeds: Sequence[Trial]) -> tuple[str, str]:
    """Steps to the target, and their time beside the best's; where not all arrived, how many did."""
    marks = [mark for each in seeds if (mark := each.arrived) is not None]
    if len(marks) < len(seeds):
        return f"{len(marks)} of {len(seeds)} arrived", f"not with {seeds[0].longer.recipe.steps}"
    bests = [mark for each in seeds if (mark := each.best.reached(each.target)) is not None]
    counts = f"{mean(mark.steps for mark in marks):.0f}"
    if len(bests) < len(seeds):
        return counts, "best did not arrive"
    return counts, _spread([mark.seconds / best.seconds for mark, best in zip(marks, bests, strict=True)], 2)


def _step_seconds(course: Course) -> float:
    return course.last.seconds / course.last.steps


def _spread(values: Sequence[float], digits: int) -> str:
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"
