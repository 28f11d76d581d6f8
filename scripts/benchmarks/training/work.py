"""The training step: tokens a second and peak memory, here and in peers as they ship and with this allocator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch._functorch import config as functorch

from benchmarks.command import say
from benchmarks.conditions import conditions, device_of
from benchmarks.contestants import Shape, asked, check_nanogpt, find, here, parameters, random_batch
from benchmarks.matmuls import MATMULS, MatmulsAlone
from benchmarks.race import Contestant, race
from benchmarks.record import Goal, Record
from benchmarks.sizing import default_precisions
from benchmarks.training.step import PRECISIONS, TrainingStep
from lit_llm.errors import UserError

LEAN = "keeping"


@dataclass(frozen=True)
class Preset:
    """A shape, with what is wanted of it: so many times the best peer's speed, and so much of its peak memory, with so
    many of the activations kept."""

    shape: Shape
    speed: float
    memory: float | None = None
    budget: float | None = None


PRESETS = {
    "10m8": Preset(Shape(384, 6, 6, 65, 256, 8, qk_norm=False), 1.6),
    "10m32": Preset(Shape(384, 6, 6, 65, 256, 32, qk_norm=False), 1.5),
    "default": Preset(Shape(256, 4, 4, 4096, 256, 32, qk_norm=True), 1.5),
    "124m": Preset(Shape(768, 12, 12, 50304, 512, 4, qk_norm=False), 1.8, 0.7, 0.1),
}


def _fast() -> tuple[str, ...]:
    return ("bf16-true",) if torch.cuda.is_available() else default_precisions("bf16-true", "32-true")[:1]


@dataclass(frozen=True)
class Settings:
    """Times the training step of this project and of its peers, interleaved, each in a process of its own."""

    shape: Annotated[str, f"of {', '.join(PRESETS)}; the sizes below stand in place of its own"] = "10m8"
    hidden_size: Annotated[int | None, "width"] = None
    layers: Annotated[int | None, "layers"] = None
    heads: Annotated[int | None, "attention heads"] = None
    vocab_size: Annotated[int | None, "rows of the embedding"] = None
    length: Annotated[int | None, "tokens a row"] = None
    batch: Annotated[int | None, "rows a step"] = None
    qk_norm: Annotated[bool | None, "Qwen3 (with QK-norm) instead of Llama, here and in the peers"] = None
    peers: Annotated[str, "names with commas (transformers, litgpt), installed, or nothing"] = "installed"
    nanogpt: Annotated[Path | None, "a checkout of nanoGPT, to take part as well"] = None
    precision: Annotated[tuple[str, ...], f"of {', '.join(PRECISIONS)}"] = field(default_factory=_fast)
    compile: Annotated[Literal["no", "yes", "both"], "torch.compile: a minute per contestant"] = "both"
    budget: Annotated[float | None, "compiled here also with this trainer.activation_memory_budget; 124m: 0.1"] = None
    allocator: Annotated[Literal["own", "both"], "peers as they ship, or also with freed memory kept as here"] = "both"
    matmuls: Annotated[bool, "also the step's matrix products alone: what no step can beat"] = True
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    seconds: Annotated[float, "of each contestant in each round"] = 1.0
    fresh: Annotated[bool | None, "one process at a time, for large models; none: for 124m"] = None
    threads: Annotated[int | None, "torch's threads; none: its own choice"] = None
    device: Annotated[str, "auto, cpu or cuda"] = "auto"
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        if self.shape not in PRESETS:
            raise UserError(f"shape={self.shape}: must be of {', '.join(PRESETS)}")
        for name in self.precision:
            if name not in PRECISIONS:
                raise UserError(f"precision={name}: must be of {', '.join(PRECISIONS)}")
        for name in ("layers", "heads", "vocab_size", "length", "batch", "rounds", "seconds", "threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name}={value}: must be above 0")
        if self.nanogpt is not None:
            check_nanogpt(self.nanogpt)
        sizes = self.sizes
        if sizes.hidden_size <= 0 or sizes.hidden_size % (2 * sizes.heads):
            raise UserError(f"hidden_size={sizes.hidden_size}: must be a multiple of 2 x heads={sizes.heads}")
        if self.budget is not None and not 0 <= self.budget <= 1:
            raise UserError(f"budget={self.budget}: must be a share from 0 to 1")
        if self.budget is not None and self.compile == "no":
            raise UserError(f"budget={self.budget}: is the compiler's; give compile=yes or compile=both")
        device_of(self.device)

    @property
    def sizes(self) -> Shape:
        given = {each.name: getattr(self, each.name) for each in fields(Shape)}
        return replace(PRESETS[self.shape].shape, **{key: value for key, value in given.items() if value is not None})

    @property
    def kept(self) -> float:
        """The share of activations; 1: all, and nobody takes part with fewer."""
        preset = PRESETS[self.shape].budget if self.sizes == PRESETS[self.shape].shape else None
        return next((each for each in (self.budget, preset) if each is not None), 1.0)

    @property
    def one_at_a_time(self) -> bool:
        """All processes of 124m, with several GB each, do not fit a usual machine together."""
        return self.shape == "124m" if self.fresh is None else self.fresh


def run(settings: Settings) -> Record:
    device = device_of(settings.device)
    described = [_described(settings.sizes), *_conditions(settings, device)]
    say("\n".join(described))
    contestants = list(_contestants(settings, device))
    results = race(contestants, settings.rounds, settings.seconds, settings.threads, say, settings.one_at_a_time)
    names = [each.name for each in contestants]
    wanted = PRESETS[settings.shape] if settings.sizes == PRESETS[settings.shape].shape else None
    return Record(
        "training", "tokens", described, results, list(goals(names, wanted)), settings=asdict(settings),
        title=_title(settings.sizes),
    )  # fmt: skip


def _conditions(settings: Settings, device: str) -> list[str]:
    return conditions(settings.threads, device, asked(settings.peers), settings.nanogpt)


def _contestants(settings: Settings, device: str) -> Iterator[Contestant]:
    for compiled in {"no": (False,), "yes": (True,), "both": (False, True)}[settings.compile]:
        for precision in settings.precision:
            for name, make in find(settings.peers, settings.nanogpt):
                label = f"{name} {precision}{' compiled' if compiled else ''}"
                built = partial(_built, make, settings.sizes, precision, compiled, device)
                if name == "here":
                    yield Contestant(label, built)
                    budget = settings.kept
                    if compiled and budget < 1:
                        yield Contestant(f"{label} {LEAN} {budget:g}", partial(built, budget=budget))
                    continue
                yield Contestant(label, built, tuned=False)
                if settings.allocator == "both":
                    yield Contestant(f"{label} +allocator", built)
    for precision in settings.precision if settings.matmuls else ():
        yield Contestant(f"{MATMULS} {precision}", partial(_matmuls, settings.sizes, precision, device))


def _matmuls(shape: Shape, precision: str, device: str) -> MatmulsAlone:
    return MatmulsAlone(_built(here, shape, precision, False, device), torch.device(device))


def _built(
    make: object, shape: Shape, precision: str, compiled: bool, device: str, budget: float = 1.0
) -> TrainingStep:
    functorch.activation_memory_budget = budget
    torch.manual_seed(0)
    return TrainingStep(make(shape), random_batch(shape, torch.device(device)), precision, compiled)  # type: ignore[operator]


def goals(names: list[str], wanted: Preset | None) -> Iterator[Goal]:
    """What is wanted is held against the fastest of ours and the best of the peers, in whatever configuration."""
    every = [name for name in names if name.startswith("here ")]
    own, lean = ([name for name in every if (LEAN in name) == is_lean] for is_lean in (False, True))
    peers = [name for name in names if not name.startswith(("here ", MATMULS))]
    shipped = [name for name in peers if not name.endswith("+allocator")]
    tuned = [name for name in peers if name.endswith("+allocator")]
    yield Goal("peers as they ship", own, shipped, wanted.speed if wanted else None)
    memory = wanted.memory if wanted else None
    yield Goal("peak memory, peers as they ship", own, shipped, None if lean else memory, of="memory", detail=True)
    for name in lean:
        yield Goal(f"keeping {name.split()[-1]} of the activations: peak memory", name, shipped, memory, of="memory")
        yield Goal(f"keeping {name.split()[-1]} of the activations: speed", name, shipped)
    yield Goal("peers with the allocator too", own, tuned)
    for name in every:
        way = name.removeprefix("here ")
        yield Goal(f"{way}, peers as they ship", name, shipped, detail=True)
        yield Goal(f"{way}, its matrix products alone", name, [f"{MATMULS} {way.split()[0]}"], detail=True)


def _title(shape: Shape) -> str:
    return f"training step, {parameters(shape.config()) / 1e6:.3g}M, batch {shape.batch}"


def _described(shape: Shape) -> str:
    return (
        f"d {shape.hidden_size}, {shape.layers} layers, {shape.heads} heads, vocabulary {shape.vocab_size}, "
        f"{parameters(shape.config()) / 1e6:.1f}M parameters, {'with' if shape.qk_norm else 'no'} QK-norm; "
        f"{shape.batch} x {shape.length} tokens"
    )
