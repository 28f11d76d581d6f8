"""``scripts/benchmark.py``: tokens a second of a training step here and in peers, ratios first."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from lit_llm.allocator import keep_freed_memory
from lit_llm.arguments import run_command
from lit_llm.benchmark.contestants import Shape, find, random_batch
from lit_llm.benchmark.race import Result, fastest, race
from lit_llm.benchmark.step import PRECISIONS, TrainingStep
from lit_llm.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """Times the training step of this project and of its peers in one process, interleaved."""

    hidden_size: Annotated[int, "width"] = 384
    layers: Annotated[int, "layers"] = 6
    heads: Annotated[int, "attention heads"] = 6
    vocab_size: Annotated[int, "rows of the embedding"] = 65
    length: Annotated[int, "tokens a row"] = 256
    batch: Annotated[int, "rows a step"] = 8
    qk_norm: Annotated[bool, "Qwen3 (with QK-norm) instead of Llama, here and in the peers"] = False
    peers: Annotated[str, "names with commas (transformers, litgpt), installed, or nothing"] = "installed"
    nanogpt: Annotated[Path | None, "a checkout of nanoGPT, to take part as well"] = None
    precision: Annotated[tuple[str, ...], f"of {', '.join(PRECISIONS)}"] = ("bf16-mixed", "bf16-true")
    compile: Annotated[Literal["no", "yes", "both"], "torch.compile: a minute per contestant"] = "both"
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    seconds: Annotated[float, "of each contestant in each round"] = 1.0
    threads: Annotated[int | None, "torch's threads; none: its own choice"] = None
    allocator: Annotated[bool, "keep freed memory (mallopt), for everybody, as training here does"] = True
    clock: Annotated[Literal["wall", "cpu"], "cpu: the process's own time, for a busy machine, with threads=1"] = "wall"
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

        if self.clock == "cpu" and (self.threads != 1 or self.device.startswith("cuda")):
            raise UserError(
                "clock=cpu: counts what threads waste on waiting and nothing of a GPU; give threads=1 device=cpu"
            )

    @property
    def shape(self) -> Shape:
        sizes = (self.hidden_size, self.layers, self.heads, self.vocab_size, self.length, self.batch)
        return Shape(*sizes, qk_norm=self.qk_norm)


def main() -> None:
    """The command line (lit-llm-benchmark)."""
    run_command(Benchmark, run)


def run(benchmark: Benchmark) -> None:
    """Measures, prints, and writes ``json``."""
    if benchmark.threads is not None:
        torch.set_num_threads(benchmark.threads)
    tuned = benchmark.allocator and keep_freed_memory()
    print("\n".join(conditions(benchmark, tuned)), flush=True)
    results = measure(benchmark)
    print("\n" + "\n".join(table(results)), flush=True)
    if benchmark.json is not None:
        benchmark.json.write_text(json.dumps(_record(benchmark, results, tuned), indent=1) + "\n", encoding="utf-8")


def measure(benchmark: Benchmark) -> list[Result]:
    device = torch.device(_device(benchmark.device))
    steps = dict(_steps(benchmark, device))
    return race(steps, benchmark.rounds, benchmark.seconds, lambda text: print(text, file=sys.stderr, flush=True))


def _steps(benchmark: Benchmark, device: torch.device) -> Iterator[tuple[str, TrainingStep]]:
    torch._dynamo.config.cache_size_limit = 64  # everybody's layers are the same few functions to the compiler
    batch = random_batch(benchmark.shape, device)
    clock = time.process_time if benchmark.clock == "cpu" else time.perf_counter
    makers = list(find(benchmark.peers, benchmark.nanogpt))
    for compiled in {"no": (False,), "yes": (True,), "both": (False, True)}[benchmark.compile]:
        for precision in benchmark.precision:
            for name, make in makers:
                torch.manual_seed(0)
                label = f"{name} {precision}{' compiled' if compiled else ''}"
                yield label, TrainingStep(make(benchmark.shape), batch, precision, compiled, clock)


def conditions(benchmark: Benchmark, tuned: bool) -> Iterator[str]:
    """Everything that a figure depends on: a figure without it says nothing."""
    shape = benchmark.shape
    size = sum(p.numel() for p in _meta_model(shape).parameters())
    yield (
        f"d {shape.hidden_size}, {shape.layers} layers, {shape.heads} heads, vocabulary {shape.vocab_size}, "
        f"{size / 1e6:.1f}M parameters, {'with' if shape.qk_norm else 'no'} QK-norm; "
        f"{shape.batch} x {shape.length} tokens"
    )
    device = _device(benchmark.device)
    if device.startswith("cuda"):
        yield f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    yield (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {benchmark.clock} clock, "
        f"load {load}, torch {torch.__version__}, allocator {'tuned for everybody' if tuned else 'as it is'}"
    )


def table(results: Sequence[Result]) -> Iterator[str]:
    """Ratios of this project to the best peer, eager and compiled apart; then every figure."""
    for kind in ("eager", "compiled"):
        chosen = [result for result in results if result.name.endswith(" compiled") == (kind == "compiled")]
        own = [result for result in chosen if result.name.startswith("here ")]
        peers = [result for result in chosen if result not in own]
        for mine in own if peers else ():
            best = fastest(peers)
            ratio, low, high = mine.against(best)
            yield f"{mine.name}: {ratio:.2f} times {best.name}, the fastest {kind} peer ({low:.2f} to {high:.2f})"
    yield f"\n{'':<34}{'tokens/s':>10}{'lowest':>10}{'highest':>10}{'of the fastest':>16}"
    first = fastest(results)
    for result in sorted(results, key=lambda each: -each.median):
        low, high = min(result.rounds), max(result.rounds)
        yield f"{result.name:<34}{result.median:>10,.0f}{low:>10,.0f}{high:>10,.0f}{result.against(first)[0]:>16.2f}"


def _record(benchmark: Benchmark, results: Sequence[Result], tuned: bool) -> dict[str, Any]:
    values = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(benchmark).items()}
    rounds = {result.name: list(result.rounds) for result in results}
    return {"arguments": values, "conditions": list(conditions(benchmark, tuned)), "tokens_per_second": rounds}


def _meta_model(shape: Shape) -> torch.nn.Module:
    from lit_llm.backbone.heads import LanguageModel

    with torch.device("meta"):
        return LanguageModel(shape.config())


def _device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
