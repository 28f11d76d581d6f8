"""One GPU: first whether it is right, then how fast, beside the peers that are installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from benchmarks.command import say
from benchmarks.conditions import conditions, device_of
from benchmarks.contestants import Shape, asked
from benchmarks.generation import work as generation
from benchmarks.gpu.checks import LENGTHS, Check, checks
from benchmarks.matmuls import MATMULS
from benchmarks.preference import work as preference
from benchmarks.race import Result
from benchmarks.record import Record
from benchmarks.training import work as training
from benchmarks.training.step import PRECISIONS
from lit_llm.callbacks.peak import peak_flops
from lit_llm.errors import UserError

KEPT = 0.1
"""trainer.activation_memory_budget, beside all activations."""

COLUMNS = ("work", "here", "a second", "of peak", "peak GB", "fastest peer", "ratio")


@dataclass(frozen=True)
class Sizes:
    """What is measured. ``wanted``: the share of the GPU's peak that a training step is to have, by its name."""

    lengths: tuple[int, ...]  # of the checks' rows
    steps: dict[str, Shape]
    wanted: dict[str, float]
    generated: tuple[int, ...]  # batches
    answer: tuple[int, int]
    tuned: dict[str, int]  # the model of DPO and GRPO
    compiled: bool


SIZES = {
    "gpu": Sizes(
        LENGTHS,
        {
            "124M": Shape(768, 12, 12, 50304, 1024, 32, qk_norm=False),
            "1B": Shape(2048, 18, 16, 50304, 2048, 8, qk_norm=False),
        },
        {"124M": 0.55, "1B": 0.6},
        (1, 32, 256),
        (64, 256),
        {"hidden_size": 768, "layers": 12, "heads": 12, "vocab_size": 32768, "max_length": 1024, "batch": 16},
        True,
    ),
    "tiny": Sizes(
        (160,),
        {"tiny": Shape(32, 2, 2, 65, 32, 2, qk_norm=False)},
        {},
        (2,),
        (2, 4),
        {"hidden_size": 32, "layers": 1, "heads": 2, "vocab_size": 300, "max_length": 48, "batch": 2},
        False,
    ),
}


@dataclass(frozen=True)
class Settings:
    """Checks losses, gradients, packed rows and generation against float64 on the processor; then times training,
    generation, DPO and GRPO. What the minutes do not reach is said."""

    minutes: Annotated[float, "after which no further measurement is begun"] = 10.0
    size: Annotated[Literal["gpu", "tiny"], "tiny: to try this command out, also without a GPU"] = "gpu"
    peers: Annotated[str, "names with commas (transformers, litgpt), installed, or nothing"] = "installed"
    measure: Annotated[bool, "not only the checks"] = True
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    seconds: Annotated[float, "of each contestant in each round"] = 1.0
    device: Annotated[str, "auto, cpu or cuda"] = "auto"
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        for name in ("minutes", "rounds", "seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0")
        if device_of(self.device) == "cpu" and self.size == "gpu":
            raise UserError(f"device={self.device}: there is no GPU here; size=tiny device=cpu tries the command out")

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.size]

    @property
    def precision(self) -> str:
        return "bf16-mixed" if device_of(self.device) != "cpu" else "32-true"


@dataclass(frozen=True)
class Part:
    """One measurement: ``run`` races it beside the peers that it is given the names of."""

    name: str
    run: Callable[[str], Record]
    shape: Shape | None = None  # of a training step, for its share of the peak
    wanted: float | None = None  # of it


@dataclass
class Found:
    """What parts gave: rows of the table, every figure, and what was said about those that gave none."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def run(settings: Settings) -> Record:
    """Raises UserError where a check fails, after all were made: figures of something wrong are none."""
    began, device = time.monotonic(), device_of(settings.device)
    described = conditions(None, device, asked(settings.peers))
    say("\n".join(described))
    made = list(_told(checks(torch.device(device), settings.sizes.lengths)))
    failed = [check.name for check in made if not check.passed]
    if failed:
        raise UserError(f"{len(failed)} of {len(made)} checks failed: {'; '.join(failed)}")
    found = Found(notes=[f"{len(made)} checks passed, in {time.monotonic() - began:.0f} s"])
    peak = peak_flops(torch.device(device), torch.float32 if device == "cpu" else torch.bfloat16)
    for part in parts(settings) if settings.measure else ():
        if time.monotonic() - began > 60 * settings.minutes:
            found.notes.append(f"{part.name}: not measured, minutes={settings.minutes:g} were over")
            continue
        _measure(part, settings.peers, peak, found)
    return Record(
        "gpu", "of each work's units", described, found.results, notes=found.notes, settings=asdict(settings),
        table=[COLUMNS, *found.rows] if found.rows else (), title="one GPU",
    )  # fmt: skip


def _told(made: Iterator[Check]) -> Iterator[Check]:
    for check in made:
        say(f"{'ok    ' if check.passed else 'FAILED'}  {check.name}: {check.found:.2e} (at most {check.bound:.2e})")
        yield check


def parts(settings: Settings) -> Iterator[Part]:
    """In the order in which they are worth their time."""
    sizes, common = settings.sizes, {"rounds": settings.rounds, "seconds": settings.seconds, "device": settings.device}
    first, *larger = sizes.steps
    yield _training(first, settings, common)
    dtype = "bf16" if settings.precision in PRECISIONS[1:] else "fp32"
    for batch in sizes.generated:
        asked_for = {
            "shape": "124m" if sizes.compiled else "10m", "batch": batch, "prompts": batch, "precision": (dtype,),
            "cache": ("dynamic",), "attention": ("sdpa",), "compile": False, "answer": sizes.answer, "fresh": False,
        }  # fmt: skip
        yield Part(f"generation, batch {batch}", partial(_generate, {**asked_for, **common}))
    for kind in ("dpo", "grpo"):
        more = {"kinds": (kind,), "precision": (settings.precision,), "comparisons": 2 * sizes.tuned["batch"]}
        if not sizes.compiled:
            more |= {"max_new_tokens": 4, "samples": 2}
        yield Part(f"{kind} step", partial(_tune, {**sizes.tuned, **more, **common}))
    for name in larger:
        yield _training(name, settings, common)


def _training(name: str, settings: Settings, common: dict[str, Any]) -> Part:
    shape = settings.sizes.steps[name]
    compiled = settings.sizes.compiled
    more = {"compile": "yes", "budget": KEPT} if compiled else {"compile": "no"}
    asked_for = {
        **asdict(shape), "precision": (settings.precision,), "allocator": "own", "fresh": True, "matmuls": compiled,
    }  # fmt: skip
    return Part(
        f"training step, {name}",
        partial(_train, {**asked_for, **more, **common}),
        shape,
        settings.sizes.wanted.get(name),
    )


def _train(settings: dict[str, Any], peers: str) -> Record:
    return training.run(training.Settings(**settings, peers=peers))


def _generate(settings: dict[str, Any], peers: str) -> Record:
    return generation.run(generation.Settings(**settings, peers=peers))


def _tune(settings: dict[str, Any], peers: str) -> Record:
    """TRL takes part where it is installed, and any peers are wanted."""
    wanted = preference.Settings(**settings, peer=bool(peers))
    return preference.run(wanted)


def _measure(part: Part, peers: str, peak: float, found: Found) -> None:
    """A peer that fails costs no figure of this project's; what fails here is said, and the next part is measured."""
    for take_part in dict.fromkeys((peers, "")):
        try:
            record = part.run(take_part)
        except UserError as error:
            say(f"{part.name}: {error}")
            found.notes.append(f"{part.name}{' beside peers' if take_part else ''}: {error}")
            continue
        found.results += [replace(result, name=f"{part.name}: {result.name}") for result in record.results]
        found.rows += list(rows(part, record.results, peak))
        return


def rows(part: Part, results: Sequence[Result], peak: float) -> Iterator[tuple[str, ...]]:
    """A row for each configuration of this project, against the fastest of the peers'."""
    peers = [each for each in results if not each.name.startswith(("here", MATMULS))]
    rival = max(peers, key=lambda each: each.median, default=None)
    for result in (each for each in results if each.name.startswith("here")):
        share = ""
        if part.shape is not None:
            share = f"{result.median * part.shape.config().flops_per_token(part.shape.length) / peak:.1%}"
            share += f" (goal {part.wanted:.0%})" if part.wanted else ""
        ratio = f"{result.against(rival)[0]:.2f}" if rival else ""
        yield (
            part.name, result.name.removeprefix("here "), f"{result.median:,.4g}", share, f"{result.peak_gb:.2f}",
            rival.name if rival else "", ratio,
        )  # fmt: skip
