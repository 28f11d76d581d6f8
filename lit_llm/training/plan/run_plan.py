"""The plan of one run: said from its configuration, then from its data, then from a few of its own steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lit_llm.runtime import devices
from lit_llm.runtime.counted import counted
from lit_llm.runtime.devices import is_sharded
from lit_llm.runtime.process_age import seconds_since_start
from lit_llm.runtime.terminal import started

if TYPE_CHECKING:  # torch is imported when the configuration has been found good
    from lit_llm.training.plan.memory import Memory, Pass, Shape
    from lit_llm.training.plan.run_data import RunData
    from lit_llm.training.plan.timing import Time

CHINCHILLA = 20  # tokens a parameter, where a given amount of arithmetic goes furthest (arXiv:2203.15556)


@dataclass(frozen=True)
class Plan:
    """What is said of one run."""

    lines: list[str]
    memory: float  # bytes at the peak: of the sum of its parts, or of what the measured steps held if that was more
    time: Time | None  # None: not measured


def plan_run(cfg: DictConfig, measure: bool, folder: Path, tell: Callable[[str], object] = lambda _: None) -> Plan:
    """One run of a process of its own, tried in ``folder``, which gets ``model/`` of the few steps that are measured.

    Each line goes to ``tell`` as soon as it is known; what the plan is at meanwhile is said on stderr, unless
    ``trainer.progress`` is off. Memory that is not there is said before a weight is read, and then none is. Raises
    UserError as the run would.
    """
    from lit_llm.runtime.allocator import keep_freed_memory

    keep_freed_memory()
    import lightning as L

    from lit_llm.stages.options import AdapterOptions
    from lit_llm.training import finalize, loggers  # noqa: F401  a run has them: what they hold counts
    from lit_llm.training.plan import memory
    from lit_llm.training.plan.micro_batch import settled
    from lit_llm.training.plan.remedies import what_would_fit
    from lit_llm.training.plan.run_data import RunData
    from lit_llm.training.train import quiet

    launch = seconds_since_start()  # what a run does, too, before it reads anything
    quiet()
    folder.mkdir(parents=True, exist_ok=True)
    lines, begun = list[str](), _announcer(cfg)

    def say(found: Iterable[str]) -> None:
        for line in found:
            lines.append(line)
            tell(line)

    begun("reading the data")
    cfg = settled(cfg, folder)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data = RunData.read(cfg, folder)
    shape = memory.shape_of(cfg, data.vocabulary)
    if isinstance(shape.options, AdapterOptions) and shape.options.lora_quantization and find_spec("bitsandbytes"):
        import bitsandbytes  # noqa: F401  it counts too
    process = memory.process_bytes() if shape.device == "cpu" else 0.0
    options = shape.options
    of = memory.Pass(*options.pass_over(data.rows, data.length), sampled=options.sampled(data.rows, data.length))
    say(_of_model(shape, of))
    begun("watching what a layer keeps for its backward pass")
    needed, room = shape.memory(of, process), memory.SPARE * memory.available(shape.device)
    say(_of_memory(shape, needed, room))
    say(_of_data(shape, data, cfg.init_from is None))
    processes, sharded = devices.count(cfg.trainer) * cfg.trainer.num_nodes, is_sharded(cfg.trainer)
    if sharded:
        say([f"spread      not counted: {processes} processes share weights, gradients and optimizer out"])
    if needed.total > room:
        say(["It does not fit. What would:"])
        for words, total in what_would_fit(shape, of, process, room):
            say([f"  {size_of(total):>9}  {words}{'' if total <= room else ' (still too much)'}"])
    flops = shape.config.flops_per_token(of.length) * data.positions
    if needed.total > room or not measure or processes > 1 or sharded:
        say([f"arithmetic  {flops:.2e} floating point operations"] if flops else [])
        told = f"time        not measured: a plan runs one process, this run {processes}"
        say([told] if processes > 1 or sharded else [])
        return Plan(lines, needed.total, None)
    earlier = memory.peak_bytes(shape.device)  # of a chain's steps before this one, in the same process
    found = replace(_measured(cfg, folder, begun), launch=launch)
    # With what no sum of parts knows: what the allocator keeps, and what products need for themselves.
    held = memory.peak_bytes(shape.device)
    say([f"held        {size_of(held)} in the steps that were measured"])
    say(_of_time(found, flops))
    return Plan(lines, max(needed.total, held if held > earlier else 0.0), found)


def _announcer(cfg: DictConfig) -> Callable[[str], None]:
    """Says what the plan is at, where the run would show its progress."""

    def begun(what: str) -> None:
        if cfg.trainer.progress:
            started(f"plan: {what} ...")

    return begun


def _of_model(shape: Shape, of: Pass) -> Iterator[str]:
    config = shape.config
    yield (
        f"model       {config.family}, {shape.parameters:,} parameters, {shape.trained:,} trained; "
        f"{config.num_layers} layers, {config.hidden_size} wide, vocabulary {config.vocab_size:,}"
    )
    kind = str(shape.autocast or shape.dtype)[6:]
    yield f"a pass      {counted(of.rows, 'row')} of {counted(of.length, 'token')}, {kind}"


def _of_memory(shape: Shape, needed: Memory, room: float) -> Iterator[str]:
    said = {
        "weights": "", "gradients": "", "optimizer": "moments", "copies": "reference, reward model",
        "activations": "kept for the backward pass",
        "cache": "keys and values while answers are sampled, not beside activations",
        "laid_out": "weights once more while answers are sampled, not beside activations",
        "read": "before the first step: weights as they are read, and a copy to be evaluated",
        "made": "after the last step: adapters merged, and what that is measured beside",
        "process": "Python, torch, data",
    }  # fmt: skip
    for name, size in needed.parts().items():
        if size:
            yield f"  {name:<12}{size_of(size):>9}  {said[name]}".rstrip()
    word = "fits in" if needed.total <= room else "is more than"
    place = "GPU's memory" if shape.device == "cuda" else "memory"
    yield f"memory      {size_of(needed.total)} at the peak {word} the {size_of(room)} of free {place}"


def _of_data(shape: Shape, data: RunData, from_scratch: bool) -> Iterator[str]:
    tokens = f", {counted(data.tokens_an_epoch, 'trained token')}" if data.tokens_an_epoch else ""
    yield f"data        an epoch has {counted(data.rows_an_epoch, 'row')}{tokens}"
    if data.steps is not None:
        last = ", the last of an epoch of fewer" if data.uneven else ""
        line = f"tokens      {counted(data.steps, 'step')} of {data.tokens_a_step:,}{last}: {data.tokens:,}"
        if from_scratch:
            each = data.tokens / shape.parameters
            line += f", {each:.1f} a parameter ({CHINCHILLA} go furthest for their arithmetic)"
        yield line


def _of_time(found: Time, flops: float) -> Iterator[str]:
    if flops:
        rate = f", {flops / found.steps / found.step:.2e} a second" if found.steps and found.step else ""
        yield f"arithmetic  {flops:.2e} floating point operations{rate}"
    yield (
        f"time        {clock(found.total)}: launch {clock(found.launch)}, start {clock(found.start)}, "
        f"{counted(found.steps, 'step')} of {found.step:.3g} s, "
        f"validation {clock(found.validation)}, evaluation {clock(found.before)} before and {clock(found.after)} after"
    )


def _measured(cfg: DictConfig, folder: Path, begun: Callable[[str], None]) -> Time:
    from lit_llm.runtime.out_of_resources import told_in_one_line
    from lit_llm.training.build import load
    from lit_llm.training.plan.timing import measure
    from lit_llm.training.train import needs_less

    with told_in_one_line(lambda: needs_less(cfg), lambda: "nothing was begun"):
        begun("loading model and data")
        began = time.perf_counter()
        parts = load(cfg, folder)
        parts.data.setup()
        start = time.perf_counter() - began
        found = replace(measure(parts, folder, begun), start=start)
        parts.stage.save(folder / "model")
    return found


def size_of(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def clock(seconds: float | None) -> str:
    if seconds is None or seconds != seconds:
        return "unknown"
    whole = round(seconds)
    if whole < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
