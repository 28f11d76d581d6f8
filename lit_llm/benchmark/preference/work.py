"""Preference training and learning from one's own answers, here and in TRL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any

from lit_llm.benchmark.agreement import demand
from lit_llm.benchmark.command import say
from lit_llm.benchmark.conditions import conditions
from lit_llm.benchmark.preference import here
from lit_llm.benchmark.preference import trl as theirs
from lit_llm.benchmark.preference.comparisons import Source
from lit_llm.benchmark.race import Contestant, race
from lit_llm.benchmark.record import Goal, Record
from lit_llm.benchmark.started import without_start
from lit_llm.benchmark.tuning.settings import StageSettings
from lit_llm.errors import UserError

KINDS = {"dpo": 4.0, "reward": 3.0, "grpo": 3.0, "ppo": None}
"""With the ratio to TRL's best that is wanted; its releases have no PPO."""

RANKED = ("dpo", "reward")
"""Those that learn from comparisons; the others learn from answers of their own."""

TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 0.05}
"""Of the first step's loss, margin and gradient: what bfloat16 rounds here it does not round there."""


@dataclass(frozen=True)
class Settings(StageSettings):
    """Times epochs of DPO, reward modelling and GRPO here and in TRL (and PPO here), each in a process of its own.
    What a call spends before its first step is taken off on both sides."""

    kinds: Annotated[tuple[str, ...], f"of {', '.join(KINDS)}"] = tuple(KINDS)
    comparisons: Annotated[int, "of an epoch, which is one call"] = 24
    completions: Annotated[int, "of each drawn comparison, all ranked; TRL gets every pair of them"] = 2
    batch: Annotated[int, "comparisons (or prompts) a step"] = 8
    samples: Annotated[int, "answers to a prompt in GRPO"] = 8
    max_new_tokens: Annotated[int, "of an answer"] = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        self.known("kinds", tuple(KINDS))
        self.above_zero("comparisons", "batch", "samples", "max_new_tokens")
        if self.completions < 2:
            raise UserError(f"completions={self.completions}: must be 2 or more")
        if self.comparisons % self.batch:
            raise UserError(f"comparisons={self.comparisons}: must be a multiple of batch={self.batch}")

    @property
    def source(self) -> Source:
        return Source(self.path, self.comparisons, self.completions, self.vocab_size, self.max_length)

    @property
    def work(self) -> here.Work:
        config = self.shape(self.max_length + self.max_new_tokens, self.batch).config()
        return here.Work(config, self.source, self.batch, "", self.samples, self.max_new_tokens)

    @property
    def unit(self) -> str:
        """Of the work that is counted: what is compared, or the answers of a rollout."""
        ranked = [kind in RANKED for kind in self.kinds]
        return "comparisons" if all(ranked) else "comparisons or answers" if any(ranked) else "answers"


def run(settings: Settings) -> Record:
    peer, work = find_spec("trl") is not None, settings.work
    described = [
        f"{settings.hidden_size} wide, {settings.layers} layers, vocabulary {settings.vocab_size}; "
        f"{settings.batch} comparisons a step, an epoch of {settings.comparisons}; "
        f"in TRL {work.pairs_a_step} pairs a step",
        settings.source.described(),
        *conditions(settings.threads, "cpu", ("trl", "transformers", "accelerate")),
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
