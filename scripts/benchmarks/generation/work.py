"""Generation: new tokens a second with batches of several sizes, here and in peers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch

from benchmarks.agreement import demand
from benchmarks.command import say
from benchmarks.conditions import conditions, device_of
from benchmarks.contestants import Shape, asked, find, parameters
from benchmarks.generation.here import Here, Task, draw
from benchmarks.generation.peers import Continuous, LitGPT, Transformers
from benchmarks.matmuls import MATMULS, MatmulsAlone
from benchmarks.race import Contestant, race
from benchmarks.record import Goal, Record
from benchmarks.sizing import MINUTES, Machine, default_precisions
from lit_llm.errors import UserError

SHAPES = {"10m": (384, 6, 6, 65), "124m": (768, 12, 12, 50304)}  # width, layers, heads, vocabulary
CONTEXT = 1024
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CACHES = ("dynamic", "static", "continuous")
ATTENTIONS = ("sdpa", "eager")
COMPILED = " compiled"
DECODING = 4.0
"""Times the products of a token that is read, of few rows, which are as fast as memory is."""


@dataclass(frozen=True)
class Settings:
    """Times generation at temperature 1, interleaved, each contestant in a process of its own. Only tokens that were
    asked for are counted: a peer that goes on until the longest answer of its batch is done computes more.
    Transformers takes part with its continuous batching as well, which does not."""

    shape: Annotated[Literal["10m", "124m"], "d 384, 6 layers, vocabulary 65; or d 768, 12 layers, 50304"] = "10m"
    batch: Annotated[int, "prompts at once"] = 32
    prompts: Annotated[
        int | None, "in all; none: twice the batch where answers are unlike and minutes= allows, else the batch"
    ] = None
    prompt: Annotated[tuple[int, int], "shortest and longest prompt, tokens"] = (16, 128)
    answer: Annotated[tuple[int, int], "shortest and longest answer; two equal numbers: all alike"] = (16, 128)
    precision: Annotated[tuple[str, ...], "of bf16, fp32; without any, those that the processor multiplies in"] = field(
        default_factory=partial(default_precisions, *DTYPES)
    )
    cache: Annotated[tuple[str, ...], f"of transformers: {', '.join(CACHES)}"] = CACHES
    attention: Annotated[tuple[str, ...], f"of transformers: {', '.join(ATTENTIONS)}"] = ATTENTIONS
    compile: Annotated[bool, "peers that can be compiled also compiled: a minute each"] = True
    peers: Annotated[str, "names with commas (transformers, litgpt), installed, or nothing"] = "installed"
    matmuls: Annotated[bool, "also the matrix products alone of what is generated here"] = True
    minutes: Annotated[float, "of the race, about, where prompts= is not given"] = MINUTES
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    seconds: Annotated[float, "of each contestant in each round"] = 1.0
    fresh: Annotated[bool | None, "one process at a time, for large models; none: for 124m"] = None
    threads: Annotated[int | None, "torch's threads; none: its own choice"] = None
    device: Annotated[str, "auto, cpu or cuda"] = "auto"
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        device_of(self.device)
        for name, known in (("precision", tuple(DTYPES)), ("cache", CACHES), ("attention", ATTENTIONS)):
            for value in getattr(self, name) or ("",):
                if value not in known:
                    raise UserError(f"{name}={value}: must be of {', '.join(known)}")
        for name in ("batch", "prompts", "minutes", "rounds", "seconds", "threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name}={value}: must be above 0")
        for name in ("prompt", "answer"):
            given = getattr(self, name)
            if len(given) != 2 or not 1 <= given[0] <= given[1] <= CONTEXT // 2:
                said = ",".join(map(str, given))
                raise UserError(f"{name}={said}: two numbers, from 1 to {CONTEXT // 2}, the smaller first")

    @property
    def model(self) -> Shape:
        width, layers, heads, vocabulary = SHAPES[self.shape]
        return Shape(width, layers, heads, vocabulary, CONTEXT, self.batch, qk_norm=False)

    def sized(self) -> tuple[Settings, list[str]]:
        """With a number of prompts, and the line that says where it came from."""
        if self.prompts is not None:
            return self, []
        if self.answer[0] == self.answer[1]:
            return replace(self, prompts=self.batch), []
        one = replace(self, prompts=self.batch)
        everybody = len(list(_contestants(one))) / len(self.precision)
        tokens = self.batch * (sum(self.prompt) + DECODING * sum(self.answer)) / 2
        operations = dict.fromkeys(self.precision, 2.0 * parameters(self.model.config()) * tokens * everybody)
        machine = Machine(self.minutes, self.threads)
        batches = machine.parts(operations, self.rounds, most=2)
        return replace(self, prompts=batches * self.batch), [machine.said(f"{batches} times the batch")]

    def tasks(self) -> dict[str, Task]:
        """The same prompts and answers in every precision."""
        count = self.prompts or self.batch
        place = device_of(self.device)
        return {name: draw(self.model, DTYPES[name], count, self.prompt, self.answer, place) for name in self.precision}


def run(settings: Settings) -> Record:
    settings, sized = settings.sized()
    task = next(iter(settings.tasks().values()))
    described = [
        f"{settings.shape}, {len(task.prompts)} prompts of {settings.prompt[0]} to {settings.prompt[1]} tokens, "
        f"answers of {settings.answer[0]} to {settings.answer[1]} ({sum(task.limits)} in all), "
        f"{settings.batch} at once",
        *sized,
        *conditions(settings.threads, device_of(settings.device), asked(settings.peers)),
    ]
    say("\n".join(described))
    contestants = list(_contestants(settings))
    fresh = settings.shape == "124m" if settings.fresh is None else settings.fresh
    results = race(contestants, settings.rounds, settings.seconds, settings.threads, say, fresh)
    exact = [each for each in results if " fp32" in each.name]  # in bf16 the likeliest token may be another
    demand(exact, ["greedy"], 0.0)
    goals = list(_goals(settings, [each.name for each in contestants]))
    alike = "alike" if settings.answer[0] == settings.answer[1] else "unlike"
    title = f"generation, {settings.shape}, batch {settings.batch}, answers {alike}"
    return Record("generation", "tokens", described, results, goals, settings=asdict(settings), title=title)


def _contestants(settings: Settings) -> Iterator[Contestant]:
    """Peers as they ship, without the allocator's setting."""
    there = {name.split()[0] for name, _ in find(settings.peers, None)}
    for name, task in settings.tasks().items():
        yield Contestant(f"here {name}", partial(Here, task))
        if task.device != "cpu":
            yield Contestant(f"here {name} recorded", partial(Here, task, recorded=True))
        if "transformers" in there:
            yield from _transformers(settings, name, task)
        for compiled in (False, True)[: 1 + settings.compile] if "litgpt" in there else ():
            yield Contestant(f"litgpt {name}{COMPILED * compiled}", partial(LitGPT, task, compiled), tuned=False)
        if settings.matmuls:
            yield Contestant(f"{MATMULS} {name}", partial(_matmuls, task))


def _matmuls(task: Task) -> MatmulsAlone:
    return MatmulsAlone(Here(task), torch.device(task.device))


def _transformers(settings: Settings, name: str, task: Task) -> Iterator[Contestant]:
    """With each cache and each attention; only a static cache can be compiled."""
    for cache in settings.cache:
        for attention in settings.attention:
            label = f"transformers {name} {cache} {attention}"
            made = partial(Transformers, task, cache, attention)
            if cache == "continuous":
                yield Contestant(label, partial(Continuous, task, attention), tuned=False)
                continue
            yield Contestant(label, made, tuned=False)
            if cache == "static" and settings.compile:
                yield Contestant(label + COMPILED, partial(made, compiled=True), tuned=False)


def _goals(settings: Settings, names: list[str]) -> Iterator[Goal]:
    """In each precision against every peer in it; in the fastest against every peer in any."""
    wanted = 4.0 if settings.shape == "10m" and settings.batch == 32 else None
    peers = [each for each in names if not each.startswith(("here", MATMULS))]
    for name in settings.precision:
        ours = [each for each in names if each.startswith(f"here {name}")]
        yield Goal(name, ours, [each for each in peers if f" {name}" in each], wanted)
        yield Goal(f"{name}, its matrix products alone", ours, [f"{MATMULS} {name}"], detail=True)
    if len(settings.precision) > 1:
        ours = [each for each in names if each.startswith("here")]
        yield Goal("peers in any precision", ours, peers, wanted)
