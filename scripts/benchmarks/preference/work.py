"""Preference training and learning from one's own answers, here and in TRL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any

from benchmarks.agreement import demand
from benchmarks.command import say
from benchmarks.conditions import conditions, device_of
from benchmarks.contestants import parameters
from benchmarks.preference import here
from benchmarks.preference import trl as theirs
from benchmarks.preference.comparisons import Source, pairs
from benchmarks.race import Contestant, race
from benchmarks.record import Goal, Record
from benchmarks.started import without_start
from benchmarks.tuning.settings import StageSettings
from lit_llm.errors import UserError

KINDS = {"dpo": 4.0, "reward": 3.0, "grpo": 3.0, "ppo": None}
"""With the ratio to TRL's best that is wanted; its releases have no PPO."""

RANKED = ("dpo", "reward")
"""Those that learn from comparisons; the others learn from answers of their own."""

STEPS = 3
"""Of an epoch, at most, where nobody says how many."""

TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 0.05}
"""Of the first step's loss, margin and gradient: what bfloat16 rounds here it does not round there."""


@dataclass(frozen=True)
class Settings(StageSettings):
    """Times epochs of DPO, reward modelling and GRPO here and in TRL (and PPO here), each in a process of its own.
    What a call spends before its first step is taken off on both sides."""

    kinds: Annotated[tuple[str, ...], f"of {', '.join(KINDS)}"] = tuple(KINDS)
    comparisons: Annotated[int | None, "of an epoch, which is one call; none: of 1 to 3 steps, as minutes= allows"] = (
        None
    )
    completions: Annotated[int, "of each drawn comparison, all ranked; TRL gets every pair of them"] = 2
    batch: Annotated[int, "comparisons (or prompts) a step"] = 8
    samples: Annotated[int, "answers to a prompt in GRPO"] = 8
    max_new_tokens: Annotated[int, "of an answer"] = 48
    peer: Annotated[bool, "beside TRL, where it is installed"] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.known("kinds", tuple(KINDS))
        self.above_zero("comparisons", "batch", "samples", "max_new_tokens")
        if self.completions < 2:
            raise UserError(f"completions={self.completions}: must be 2 or more")
        if self.comparisons is not None and self.comparisons % self.batch:
            raise UserError(f"comparisons={self.comparisons}: must be a multiple of batch={self.batch}")

    def sized(self) -> tuple[Settings, list[str]]:
        """With a number of comparisons, and the line that says where it came from."""
        if self.comparisons is not None:
            return self, []
        machine, one = self.machine, replace(self, comparisons=self.batch)
        operations = dict.fromkeys(self.precision, one.operations())
        steps = machine.parts(operations, self.rounds, most=STEPS)
        return replace(self, comparisons=steps * self.batch), [machine.said(f"{steps} steps an epoch")]

    def operations(self) -> float:
        """Of the matrix products of all contestants in a call, in one precision."""
        tokens = {kind: self._tokens(kind) * len(list(_contestants(self, kind, self.rivals))) for kind in self.kinds}
        return (
            8.0 * parameters(self.work.config) * sum(tokens.values()) / len(self.precision)
        )  # 2 forward, 4 backward, 2 of a reference

    def _tokens(self, kind: str) -> int:
        """That a call reads or writes."""
        found = pairs(self.source.rows())
        if kind in RANKED:
            return sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in found)
        answers = self.samples if kind == "grpo" else 1
        prompts = [prompt for prompt, *_ in map(self.source.rows().__getitem__, range(self.source.count))]
        return answers * sum(len(prompt) + 2 * self.max_new_tokens for prompt in prompts)

    @property
    def source(self) -> Source:
        assert self.comparisons is not None, "the settings are not sized"
        return Source(self.path, self.comparisons, self.completions, self.vocab_size, self.max_length)

    @property
    def work(self) -> here.Work:
        config = self.shape(self.max_length + self.max_new_tokens, self.batch).config()
        place = device_of(self.device)
        return here.Work(config, self.source, self.batch, "", self.samples, self.max_new_tokens, place)

    @property
    def rivals(self) -> bool:
        return self.peer and find_spec("trl") is not None

    @property
    def unit(self) -> str:
        """Of the work that is counted: what is compared, or the answers of a rollout."""
        ranked = [kind in RANKED for kind in self.kinds]
        return "comparisons" if all(ranked) else "comparisons or answers" if any(ranked) else "answers"


def run(settings: Settings) -> Record:
    settings, sized = settings.sized()
    peer, work = settings.rivals, settings.work
    described = [
        f"{settings.hidden_size} wide, {settings.layers} layers, vocabulary {settings.vocab_size}; "
        f"{settings.batch} comparisons a step, an epoch of {settings.comparisons}; "
        f"in TRL {work.pairs_a_step} pairs a step",
        settings.source.described(),
        *sized,
        *conditions(settings.threads, device_of(settings.device), ("trl", "transformers", "accelerate")),
    ]
    say("\n".join(described))
    contestants = [each for kind in settings.kinds for each in _contestants(settings, kind, peer)]
    results = race(contestants, settings.rounds, settings.seconds, settings.threads, say, settings.fresh)
    for kind in RANKED:
        for precision, tolerance in TOLERANCE.items():
            alike = [each for each in results if f" {kind} {precision}" in each.name]
            demand(alike, ("loss", "margin", "gradient"), tolerance)
    names = [contestant.name for contestant in contestants]
    goals = list(_goals(names))
    timed = list(without_start(results))
    title = f"preference ({', '.join(settings.kinds)}), d {settings.hidden_size}, {settings.layers} layers"
    return Record("preference", settings.unit, described, timed, goals, settings=asdict(settings), title=title)


def _contestants(settings: Settings, kind: str, peer: bool) -> Iterator[Contestant]:
    """Ours and TRL's in each precision, DPO with and without stored log-probabilities of the reference."""
    variants: list[tuple[str, dict[str, Any]]] = [("", {})]
    if kind == "dpo":
        variants = [("", {"cached": False}), (" stored reference", {"cached": True})]
    for precision in settings.precision:
        each = replace(settings.work, precision=precision)
        for suffix, more in variants:
            yield Contestant(f"here {kind} {precision}{suffix}", partial(getattr(here, kind), each, **more))
            if peer and hasattr(theirs, kind):
                for by_length in (False, True) if kind in RANKED else (False,):
                    sorts = {"by_length": True} if by_length else {}
                    make = partial(getattr(theirs, kind), each, **more, **sorts)
                    yield Contestant(f"trl {kind} {precision}{' by length' * by_length}{suffix}", make, tuned=False)


def _goals(names: list[str]) -> Iterator[Goal]:
    """Our best of each kind against the best that TRL has of it, the stored reference apart."""
    for kind, wanted in KINDS.items():
        for suffix in ("", " stored reference"):
            ours = [name for name in names if name.startswith(f"here {kind} ") and name.endswith(suffix)]
            rivals = [name for name in names if name.startswith(f"trl {kind} ") and name.endswith(suffix)]
            if suffix == "":
                ours, rivals = ([n for n in some if "stored" not in n] for some in (ours, rivals))
            if ours and rivals:
                yield Goal(f"{kind} step{suffix and ','}{suffix}", tuple(ours), tuple(rivals), wanted)
