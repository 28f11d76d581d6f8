"""Preference training and learning from one's own answers, a step as a run does it, here and in TRL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from lit_llm.backbone.config import BackboneConfig, from_depth
from lit_llm.benchmark import preference_here as here
from lit_llm.benchmark import preference_trl as theirs
from lit_llm.benchmark.command import say
from lit_llm.benchmark.comparisons import Source
from lit_llm.benchmark.conditions import conditions
from lit_llm.benchmark.race import Contestant, race
from lit_llm.benchmark.record import Goal, Record
from lit_llm.errors import UserError

KINDS = {"dpo": 4.0, "reward": 3.0, "grpo": 3.0, "ppo": None}
"""With the ratio to TRL's best that is wanted; its releases have no PPO."""

PRECISIONS = ("bf16-mixed", "32-true")


@dataclass(frozen=True)
class Settings:
    """Times epochs of DPO, reward modelling and GRPO here and in TRL (and PPO here), each in a process of its own."""

    kinds: Annotated[tuple[str, ...], f"of {', '.join(KINDS)}"] = tuple(KINDS)
    path: Annotated[Path | None, "a file of comparisons; none: lengths are drawn"] = None
    comparisons: Annotated[int, "of an epoch, which is one call"] = 24
    completions: Annotated[int, "of each drawn comparison, all ranked; TRL gets every pair of them"] = 2
    batch: Annotated[int, "comparisons (or prompts) a step"] = 8
    samples: Annotated[int, "answers to a prompt in GRPO"] = 8
    max_new_tokens: Annotated[int, "of an answer"] = 48
    max_length: Annotated[int, "tokens of a prompt and a completion; longer ones are left out"] = 512
    hidden_size: Annotated[int, "width"] = 384
    layers: Annotated[int, "layers"] = 6
    heads: Annotated[int, "attention heads"] = 6
    vocab_size: Annotated[int, "rows of the embedding"] = 4096
    precision: Annotated[tuple[str, ...], f"of {', '.join(PRECISIONS)}"] = PRECISIONS
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    seconds: Annotated[float, "of each contestant in each round"] = 1.0
    threads: Annotated[int | None, "torch's threads; none: its own choice"] = None
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        for name, known in (("kinds", tuple(KINDS)), ("precision", PRECISIONS)):
            for value in getattr(self, name):
                if value not in known:
                    raise UserError(f"{name}={value}: must be of {', '.join(known)}")
        for name in ("comparisons", "batch", "samples", "max_new_tokens", "layers", "heads", "rounds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0")
        if self.completions < 2:
            raise UserError(f"completions={self.completions}: must be 2 or more")
        if self.comparisons % self.batch:
            raise UserError(f"comparisons={self.comparisons}: must be a multiple of batch={self.batch}")

    @property
    def config(self) -> BackboneConfig:
        return from_depth(
            self.vocab_size,
            self.layers,
            family="llama",
            hidden_size=self.hidden_size,
            num_heads=self.heads,
            num_kv_heads=self.heads,
            head_dim=self.hidden_size // self.heads,
            max_positions=self.max_length + self.max_new_tokens,
            tie_embeddings=True,
        )

    @property
    def source(self) -> Source:
        return Source(self.path, self.comparisons, self.completions, self.vocab_size, self.max_length)


def run(settings: Settings) -> Record:
    peer = find_spec("trl") is not None
    described = [
        f"{settings.hidden_size} wide, {settings.layers} layers, vocabulary {settings.vocab_size}; "
        f"{settings.batch} comparisons a step, an epoch of {settings.comparisons}",
        settings.source.described(),
        *conditions(settings.threads, "cpu", ("trl", "transformers", "accelerate")),
    ]
    say("\n".join(described))
    contestants = [each for kind in settings.kinds for each in _contestants(settings, kind, peer)]
    results = race(contestants, settings.rounds, settings.seconds, settings.threads, say)
    names = [contestant.name for contestant in contestants]
    return Record("preference", "comparisons", described, results, list(_goals(names)), settings=asdict(settings))


def _contestants(settings: Settings, kind: str, peer: bool) -> Iterator[Contestant]:
    """Ours and TRL's in each precision, DPO with and without stored log-probabilities of the reference."""
    work = here.Work(settings.config, settings.source, settings.batch, "", settings.samples, settings.max_new_tokens)
    variants: list[tuple[str, dict[str, Any]]] = [("", {})]
    if kind == "dpo":
        variants = [("", {"cached": False}), (" stored reference", {"cached": True})]
    for precision in settings.precision:
        each = replace(work, precision=precision)
        for suffix, more in variants:
            yield Contestant(f"here {kind} {precision}{suffix}", partial(getattr(here, kind), each, **more))
            if peer and hasattr(theirs, kind):
                make = partial(getattr(theirs, kind), each, **more)
                yield Contestant(f"trl {kind} {precision}{suffix}", make, tuned=False)


def _goals(names: list[str]) -> Iterator[Goal]:
    """Our first precision of each kind against the best that TRL has of it, the stored reference apart."""
    for kind, wanted in KINDS.items():
        for suffix in ("", " stored reference"):
            ours = [name for name in names if name.startswith(f"here {kind} ") and name.endswith(suffix)]
            rivals = [name for name in names if name.startswith(f"trl {kind} ") and name.endswith(suffix)]
            if suffix == "":
                ours, rivals = ([n for n in some if "stored" not in n] for some in (ours, rivals))
            if ours and rivals:
                yield Goal(f"{kind} step{suffix and ','}{suffix}", ours[0], tuple(rivals), wanted)
