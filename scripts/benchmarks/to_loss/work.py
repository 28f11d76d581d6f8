"""To nanoGPT's loss: its setting for a CPU, its model and optimizer, and how much sooner this project is there.

Everybody trains on the same characters and is judged on the whole validation split. Reading it is not timed; compiling
is, from an empty cache. The trainings go on by turns, a tenth at a time, each in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Annotated, Literal

from benchmarks.command import say
from benchmarks.conditions import conditions
from benchmarks.contestants import check_nanogpt
from benchmarks.race import Contestant, Result, race
from benchmarks.record import Goal, Record
from benchmarks.to_loss.ablation import Trial, ablation_table, variants
from benchmarks.to_loss.course import PARTS, Course, Subject, courses, make_training
from benchmarks.to_loss.text import read_characters
from benchmarks.to_loss.training import Recipe, nanogpt_recipe
from lit_llm.errors import UserError

SHIPPED = "nanogpt 32-true"
TITLE = "to nanoGPT's loss, characters"
MEASURED = 2000  # steps, in 500 parts, of which some are timed to find nanoGPT's fastest configuration


@dataclass(frozen=True)
class Settings:
    """Trains nanoGPT as its README says for a CPU, and this project to the loss that it ends with, by turns."""

    text: Annotated[Path, "a text file: tinyshakespeare"]
    nanogpt: Annotated[Path, "a checkout of nanoGPT"]
    seeds: Annotated[int, "trainings of each, with seeds 0, 1, ..."] = 1
    ablation: Annotated[bool, "also take each part out of the best: many times as long"] = False
    peer_steps: Annotated[int, "nanoGPT's steps; its README has 2000"] = 2000
    steps: Annotated[int, "steps here: what was found to suffice for nanoGPT's 2000"] = 200
    compile: Annotated[bool, "also compiled, here and nanoGPT as it is fastest; else eager alone"] = True
    split: Annotated[
        Literal["validation", "held-out"], "what judges; held-out, a tenth of the training split, to choose values with"
    ] = "validation"
    threads: Annotated[int | None, "torch's threads; none: its own choice"] = None
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        check_nanogpt(self.nanogpt)
        for name, least in {"seeds": 1, "peer_steps": PARTS, "steps": PARTS}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: must be at least {least}")
        read_characters(self.text, Recipe(0).length)

    def subject(self, seed: int) -> Subject:
        return Subject(self.text, self.nanogpt, seed, self.split == "validation")


def run(settings: Settings) -> Record:
    described = [_described(settings), *conditions(settings.threads, nanogpt=settings.nanogpt)]
    say("\n".join(described))
    best = Recipe(settings.steps)
    recipes = {SHIPPED: nanogpt_recipe(settings.peer_steps, bf16=False, compiled=False, fused=False), "here": best}
    if settings.compile:
        name, recipe = _fastest_nanogpt(settings)
        recipes |= {name: recipe, "here compiled": replace(best, compiled=True)}
    seeds = [
        courses(recipes, settings.subject(seed), frozenset({SHIPPED}), settings.threads)
        for seed in range(settings.seeds)
    ]
    targets = [found[SHIPPED].last.loss for found in seeds]
    results = [_result(name, [found[name] for found in seeds], targets) for name in recipes]
    table = list(ablation_table(_trials(settings, best, targets))) if settings.ablation else []
    notes = list(told_apart(results))
    return Record(
        "to_loss", "trainings", described, results, _goals(results), notes, asdict(settings), table=table, title=TITLE
    )


def _fastest_nanogpt(settings: Settings) -> tuple[str, Recipe]:
    """nanoGPT at its fastest, with what its README does not use: the allocator's setting and the fused AdamW of this
    project, other precisions, a compiler whose own time counts."""
    choices = {
        f"nanogpt {precision}{' compiled' if compiled else ''} +allocator +fused": nanogpt_recipe(
            MEASURED, precision != "32-true", compiled, fused=True
        )
        for precision in ("32-true", "bf16-mixed")
        for compiled in (False, True)
    }
    subject, parts = settings.subject(0), MEASURED // 4
    contestants = [Contestant(name, partial(make_training, recipe, subject, parts)) for name, recipe in choices.items()]
    results = race(contestants, rounds=3, seconds=0.5, threads=settings.threads, say=say)
    name = min(results, key=lambda each: each.first_seconds + settings.peer_steps / 4 / each.median).name
    return name, replace(choices[name], steps=settings.peer_steps)


def _trials(settings: Settings, best: Recipe, targets: Sequence[float]) -> dict[str, list[Trial]]:
    found: dict[str, list[Trial]] = {}
    for variant in variants(best):
        longer = replace(variant.recipe, steps=round(variant.longer * best.steps))
        recipes = {"best": best, variant.name: variant.recipe} | (
            {f"{variant.name}, other steps": longer} if longer != variant.recipe else {}
        )
        for seed, target in enumerate(targets):
            went = courses(recipes, settings.subject(seed), frozenset(), settings.threads)
            same = went[variant.name]
            trial = Trial(target, went["best"], same, went.get(f"{variant.name}, other steps", same))
            found.setdefault(variant.name, []).append(trial)
    return found


def _result(name: str, trained: Sequence[Course], targets: Sequence[float]) -> Result:
    """Rounds are seeds: trainings a second to nanoGPT's loss; nanoGPT in another precision goes to its own end.

    Means are given only where every seed arrived: those of the quick ones alone would flatter.
    """
    marks = [
        course.reached(target) or (course.last if course.recipe.model == "nanogpt" else None)
        for course, target in zip(trained, targets, strict=True)
    ]
    arrived = [mark for mark in marks if mark is not None]
    numbers = {"final_loss": mean(course.last.loss for course in trained), "arrived": float(len(arrived))}
    if len(arrived) == len(marks):
        numbers |= {"steps": mean(mark.steps for mark in arrived), "seconds": mean(mark.seconds for mark in arrived)}
        numbers |= {"cpu_seconds": mean(mark.cpu_seconds for mark in arrived)}
        numbers |= {"step_ms": 1000 * numbers["seconds"] / numbers["steps"]}
    return Result(
        name,
        tuple(0.0 if mark is None else 1 / mark.seconds for mark in marks),
        max(course.peak_gb for course in trained),
        max(course.compile_seconds for course in trained),
        numbers,
    )


def _goals(results: Sequence[Result]) -> list[Goal]:
    """Of those who arrived with every seed: half a ratio says nothing."""
    names = [result.name for result in results if _all_arrived(result)]
    own, peers = [[name for name in names if name.startswith("here") == ours] for ours in (True, False)]
    others = [name for name in peers if name != SHIPPED]
    goals = [Goal("nanoGPT as it ships", own, [SHIPPED], 8.0)]
    return [*goals, Goal("nanoGPT at its fastest", own, others, 8.0)]


def _all_arrived(result: Result) -> bool:
    return result.numbers["arrived"] == len(result.rounds)


def told_apart(results: Sequence[Result]) -> Iterator[str]:
    """How much is fewer steps, and how much cheaper steps; the processor's time; what of it is compiling."""
    by_name: Mapping[str, Result] = {result.name: result for result in results}
    for mine in (result for result in results if result.name.startswith("here")):
        if not _all_arrived(mine):
            seeds = f"{mine.numbers['arrived']:.0f} of {len(mine.rounds)} arrived"
            yield f"{mine.name}: {seeds}, mean end {mine.numbers['final_loss']:.4f}; give more steps="
            continue
        for peer in (by_name[name] for name in by_name if not name.startswith("here")):
            steps, cost, cpu = (peer.numbers[key] / mine.numbers[key] for key in ("steps", "step_ms", "cpu_seconds"))
            yield (
                f"{mine.name} against {peer.name}: {steps:.2f} times fewer steps, each in {1 / cost:.2f} of the time; "
                f"{cpu:.2f} times less processor time; first step (compiling) at most {mine.first_seconds:.1f} "
                f"against {peer.first_seconds:.1f} s, counted"
            )


def _described(settings: Settings) -> str:
    recipe = Recipe(settings.steps)
    return (
        f"{settings.text.name}: rows of {recipe.length} characters, {recipe.rows} a step, d {recipe.width}, "
        f"{recipe.layers} layers; {settings.peer_steps} steps of nanoGPT, {settings.steps} here; "
        f"loss on the {settings.split} split"
    )
