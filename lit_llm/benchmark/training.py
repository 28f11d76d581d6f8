"""The training step: tokens a second and peak memory, here and in peers as they ship and with this allocator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch

from lit_llm.benchmark.command import say
from lit_llm.benchmark.conditions import conditions
from lit_llm.benchmark.contestants import Shape, find, random_batch
from lit_llm.benchmark.race import Contestant, race
from lit_llm.benchmark.record import Goal, Record
from lit_llm.benchmark.step import PRECISIONS, TrainingStep
from lit_llm.errors import UserError


@dataclass(frozen=True)
class Settings:
    """Times the training step of this project and of its peers, interleaved, each in a process of its own."""

    hidden_size: Annotated[int, "width"] = 384
    layers: Annotated[int, "layers"] = 6
    heads: Annotated[int, "attention heads"] = 6
    vocab_size: Annotated[int, "rows of the embedding"] = 65
    length: Annotated[int, "tokens a row"] = 256
    batch: Annotated[int, "rows a step"] = 8
    qk_norm: Annotated[bool, "Qwen3 (with QK-norm) instead of Llama, here and in the peers"] = False
    peers: Annotated[str, "names with commas (transformers, litgpt), installed, or nothing"] = "installed"
    nanogpt: Annotated[Path | None, "a checkout of nanoGPT, to take part as well"] = None
    precision: Annotated[tuple[str, ...], f"of {', '.join(PRECISIONS)}"] = ("bf16-true",)
    compile: Annotated[Literal["no", "yes", "both"], "torch.compile: a minute per contestant"] = "both"
    allocator: Annotated[Literal["own", "both"], "peers as they ship, or also with freed memory kept as here"] = "both"
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    seconds: Annotated[float, "of each contestant in each round"] = 1.0
    fresh: Annotated[bool, "one process at a time, for large models"] = False
    threads: Annotated[int | None, "torch's threads; none: its own choice"] = None
    device: Annotated[str, "auto, cpu or cuda"] = "auto"
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        for name in self.precision:
            if name not in PRECISIONS:
                raise UserError(f"precision={name}: must be of {', '.join(PRECISIONS)}")
        for name in ("layers", "heads", "vocab_size", "length", "batch", "rounds", "seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0")
        if self.hidden_size % (2 * self.heads) or self.hidden_size <= 0:
            raise UserError(f"hidden_size={self.hidden_size}: must be a multiple of 2 x heads={self.heads}")
        if self.device not in ("auto", "cpu") and not self.device.startswith("cuda"):
            raise UserError(f"device={self.device}: must be auto, cpu or cuda")

    @property
    def shape(self) -> Shape:
        sizes = (self.hidden_size, self.layers, self.heads, self.vocab_size, self.length, self.batch)
        return Shape(*sizes, qk_norm=self.qk_norm)


def run(settings: Settings) -> Record:
    device = ("cuda" if torch.cuda.is_available() else "cpu") if settings.device == "auto" else settings.device
    described = [_described(settings.shape), *conditions(settings.threads, device, ("transformers", "litgpt"))]
    say("\n".join(described))
    contestants = list(_contestants(settings, device))
    results = race(contestants, settings.rounds, settings.seconds, settings.threads, say, settings.fresh)
    names = [each.name for each in contestants]
    return Record("training", "tokens", described, results, _goals(names), settings=asdict(settings))


def _contestants(settings: Settings, device: str) -> Iterator[Contestant]:
    for compiled in {"no": (False,), "yes": (True,), "both": (False, True)}[settings.compile]:
        for precision in settings.precision:
            for name, make in find(settings.peers, settings.nanogpt):
                label = f"{name} {precision}{' compiled' if compiled else ''}"
                built = partial(_built, make, settings.shape, precision, compiled, device)
                if name == "here":
                    yield Contestant(label, built)
                    continue
                yield Contestant(label, built, tuned=False)
                if settings.allocator == "both":
                    yield Contestant(f"{label} +allocator", built)


def _built(make: object, shape: Shape, precision: str, compiled: bool, device: str) -> TrainingStep:
    torch.manual_seed(0)
    return TrainingStep(make(shape), random_batch(shape, torch.device(device)), precision, compiled)  # type: ignore[operator]


def _goals(names: list[str]) -> list[Goal]:
    own = [name for name in names if name.startswith("here ")]
    peers = [name for name in names if name not in own]
    shipped = [name for name in peers if not name.endswith("+allocator")]
    tuned = [name for name in peers if name.endswith("+allocator")]
    sets = (("as peers ship", shipped), ("peers with the allocator too", tuned))
    return [Goal(text, name, rivals) for name in own for text, rivals in sets]


def _described(shape: Shape) -> str:
    from lit_llm.backbone.heads import LanguageModel

    with torch.device("meta"):
        size = LanguageModel(shape.config()).num_parameters()
    return (
        f"d {shape.hidden_size}, {shape.layers} layers, {shape.heads} heads, vocabulary {shape.vocab_size}, "
        f"{size / 1e6:.1f}M parameters, {'with' if shape.qk_norm else 'no'} QK-norm; "
        f"{shape.batch} x {shape.length} tokens"
    )
