"""What a longer context costs: a training step's tokens a second at the same number of tokens, 512 to 8,192 a row.

With packed short documents attention should cost the same in every row length, as no token looks beyond its document.
Rows that hold one document each are shown for contrast: their attention grows with the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.command import say
from benchmarks.conditions import conditions, device_of
from benchmarks.contestants import Shape, here
from benchmarks.race import Contestant, race
from benchmarks.record import Goal, Record
from benchmarks.sizing import default_precisions
from benchmarks.training.step import PRECISIONS, TrainingStep
from lit_llm.data.packing import PackedRows, concatenate_and_split
from lit_llm.errors import UserError
from lit_llm.records import TokenBatch

FLAT = 0.9  # of the shortest context's speed


def _fast() -> str:
    return "bf16-true" if torch.cuda.is_available() else default_precisions("bf16-true", "32-true")[0]


@dataclass(frozen=True)
class Settings:
    """Times the training step at several lengths of the row, the tokens of a step being the same."""

    hidden_size: Annotated[int, "width"] = 256
    layers: Annotated[int, "layers"] = 4
    heads: Annotated[int, "attention heads"] = 4
    vocab_size: Annotated[int, "rows of the embedding"] = 4096
    tokens: Annotated[int, "of a step"] = 8192
    contexts: Annotated[tuple[int, ...], "tokens a row, ascending; each divides tokens="] = (
        512,
        1024,
        2048,
        4096,
        8192,
    )
    shortest: Annotated[int, "tokens of the shortest document"] = 128
    longest: Annotated[int, "tokens of the longest document"] = 300
    whole: Annotated[bool, "also rows of one document each"] = True
    precision: Annotated[str, f"of {', '.join(PRECISIONS)}"] = field(default_factory=_fast)
    compile: Annotated[bool, "torch.compile: a minute per context"] = False
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    seconds: Annotated[float, "of each contestant in each round"] = 1.0
    threads: Annotated[int | None, "torch's threads; none: its own choice"] = None
    device: Annotated[str, "auto, cpu or cuda"] = "auto"
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "vocab_size", "tokens", "rounds", "seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0")
        if self.hidden_size <= 0 or self.hidden_size % (2 * self.heads):
            raise UserError(f"hidden_size={self.hidden_size}: must be a multiple of 2 x heads={self.heads}")
        device_of(self.device)
        if not self.contexts or any(context <= 0 or self.tokens % context for context in self.contexts):
            raise UserError(f"contexts={self.contexts}: each must divide tokens={self.tokens}")
        if not 2 <= self.shortest <= self.longest:
            raise UserError(f"shortest={self.shortest}: must be from 2 to longest={self.longest}")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision}: must be of {', '.join(PRECISIONS)}")


def run(settings: Settings) -> Record:
    device = device_of(settings.device)
    described = [
        f"d {settings.hidden_size}, {settings.layers} layers, {settings.heads} heads, vocabulary "
        f"{settings.vocab_size}; {settings.tokens} tokens a step, documents of {settings.shortest} to "
        f"{settings.longest} tokens; {settings.precision}, {'compiled' if settings.compile else 'eager'}",
        *conditions(settings.threads, device),
    ]
    say("\n".join(described))
    contestants = list(_contestants(settings, device))
    results = race(contestants, settings.rounds, settings.seconds, settings.threads, say)
    first = _name(settings.contexts[0])
    goals = [
        Goal(f"{context:,} tokens a row, packed, against {settings.contexts[0]}", _name(context), [first], FLAT)
        for context in settings.contexts[1:]
    ]
    title = f"longer rows, d {settings.hidden_size}, {settings.layers} layers"
    return Record("scaling", "tokens", described, results, goals, settings=asdict(settings), title=title)


def _name(context: int) -> str:
    return f"packed {context}"


def _contestants(settings: Settings, device: str) -> Iterator[Contestant]:
    for context in settings.contexts:
        yield Contestant(_name(context), partial(_built, settings, context, True, device))
        if settings.whole:
            yield Contestant(f"one document {context}", partial(_built, settings, context, False, device))


def _built(settings: Settings, context: int, packed: bool, device: str) -> TrainingStep:
    torch.manual_seed(0)
    lengths = (settings.shortest, settings.longest) if packed else (context + 1, context + 1)
    batch = packed_batch(settings.tokens, context, lengths, settings.vocab_size)
    columns: Any = tuple(column.to(device) for column in batch[:4])
    sizes = (settings.hidden_size, settings.layers, settings.heads, settings.vocab_size, max(settings.contexts))
    shape = Shape(*sizes, settings.tokens // context, qk_norm=True)
    return TrainingStep(here(shape), columns, settings.precision, settings.compile)


class RandomDocuments:
    """Documents of random tokens, without their beginning in any corpus."""

    def __init__(self, lengths: NDArray[np.int64], vocab_size: int) -> None:
        generator = np.random.default_rng(0)
        self._documents = [generator.integers(vocab_size, size=int(length)) for length in lengths]

    def tokens(self, document: int, start: int, stop: int) -> NDArray[Any]:
        return self._documents[document][start:stop]

    def trained(self, document: int, start: int, stop: int) -> NDArray[np.bool_]:  # noqa: ARG002
        return np.ones(stop - start, dtype=bool)


def packed_batch(tokens: int, context: int, lengths: tuple[int, int], vocab_size: int) -> TokenBatch:
    """``tokens // context`` rows of ``context`` positions (B, T), filled with documents of ``lengths`` tokens.

    The documents are the same whatever the context: only where rows begin differs.
    """
    sizes = np.random.default_rng(1).integers(lengths[0], lengths[1] + 1, size=tokens // (lengths[0] - 1) + 1)
    plan = concatenate_and_split(sizes - 1, context)
    rows = PackedRows(RandomDocuments(sizes, vocab_size), plan, pad_id=0)
    return rows.collate([rows[index] for index in range(tokens // context)])
