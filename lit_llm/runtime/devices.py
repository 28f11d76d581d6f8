"""How many processes ``trainer.devices`` asks for, and whether this machine has what they are to run on.

Nothing heavy is imported: a run that would fill the memory is refused before torch is there. Lightning's spellings are
taken: a number (``2``, ``"2"``), ``auto``, ``-1`` (every GPU), a list of GPUs (``[0,1]``, ``"0,1"``). ``auto`` is what
torchrun or srun has started on this node, else every GPU, else one process.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from lit_llm.errors import UserError
from lit_llm.runtime.started_by import inside_job, mismatch, started

Device = Literal["auto", "cpu", "cuda", "mps"]  # as the small commands are told it
SAID = "must be a number of processes, auto, -1 (every GPU) or a list of GPUs such as [0,1]"


def cores() -> int:
    """Those this process may use; all of them where the system (macOS, Windows) does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> int:
    """The GPUs that torch can use; while torch is not imported, as far as its build and the system's files tell."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "cuda"):
        return int(torch.cuda.device_count())
    try:
        if "+cpu" in importlib.metadata.version("torch"):
            return 0
    except importlib.metadata.PackageNotFoundError:
        pass
    there = sum(1 for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    names = [name.strip() for name in visible.split(",")]
    return min(there, next((at for at, name in enumerate(names) if name in ("", "-1")), len(names)))


def most_processes() -> int:
    """On the processor: one a core that may be used, each of which holds a whole model, and two in any case.

    Two on one core are slow, but they are how code for several processes is tried on a small machine, and they fit
    where one does; more than there are cores only take turns and fill the memory.
    """
    return max(2, cores())


def threads(processes: int) -> int:
    """Of each of so many processes that compute on this machine at once: more than there are cores only wait for each
    other."""
    return max(1, cores() // processes)


def count(settings: Any) -> int:
    """Processes on this machine, as Lightning reads it. 1 for what :func:`fault` refuses."""
    value, gpu = _read(settings["devices"]), _on_gpu(settings["accelerator"])
    if isinstance(value, list):
        return max(1, len(value))
    if value == "auto" and started().here > 1:
        return started().here
    if value in ("auto", -1):
        return max(1, gpus()) if gpu else 1
    return value if isinstance(value, int) and value > 0 else 1


def shares(settings: Any) -> int:
    """In how many shares all processes, on all machines, take a step's rows: those of one tensor-parallel group take
    the same."""
    return max(1, count(settings) * int(settings["num_nodes"]) // max(1, int(settings.get("tensor_parallel", 1))))


def fault(settings: Any) -> str | None:
    """What is wrong with ``devices`` on this machine; None: nothing. What is no number in its range is told before."""
    value, accelerator = _read(settings["devices"]), settings["accelerator"]
    if value in (None, 0, []) or (isinstance(value, int) and value < -1):
        return SAID
    now = started()
    if now.by != "python" and (found := mismatch(count(settings), settings["num_nodes"], now)):
        return found
    if accelerator == "mps":
        return None if value in (1, "auto", -1, [0]) else "must be 1; this machine has one GPU"
    if accelerator == "tpu" or value == "auto":
        return None
    return _fault_of_gpus(value) if _on_gpu(accelerator) else _fault_of_processes(value, settings)


def _fault_of_gpus(value: Any) -> str | None:
    there = gpus()
    if not there:  # torch has the last word, and says so
        return None if "torch" not in sys.modules else "there is no GPU that torch can use; give trainer=cpu"
    has = f"this machine has {there} GPU{'s' * (there != 1)}"
    if started().by == "srun":
        has = f"Slurm shows this task {there} GPU{'s' * (there != 1)} (leave out --gpu-bind and --gpus-per-task)"
    if isinstance(value, list):
        if any(not 0 <= each < there for each in value):
            return f"{has}, counted from 0"
        return "names a GPU twice" if len(set(value)) < len(value) else None
    return f"must be {there} or less; {has}" if value > there else None


def _fault_of_processes(value: Any, settings: Any) -> str | None:
    if isinstance(value, list) or value == -1:
        return "chooses GPUs, and there is none to be used; give a number of processes"
    if value <= most_processes() or is_sharded(settings) or started().here > 1:
        return None
    return (
        f"must be {most_processes()} or less; without GPUs each process needs a core of the {_cores()} that may be "
        "used, and holds the whole model; trainer=fsdp shares it out, and takes more"
    )


def is_sharded(settings: Any) -> bool:
    """Whether no process holds the whole model (``trainer=fsdp``, ``trainer=tp``)."""
    return settings.get("shard") is not None or int(settings.get("tensor_parallel", 1)) > 1


def _cores() -> str:
    return f"{cores()} core{'s' * (cores() != 1)}"


def hint(settings: Any) -> str | None:
    """What is said of more processes than cores, which whoever started them, or spreads a model over them, wants."""
    processes = count(settings)
    if settings["accelerator"] in ("mps", "tpu") or _on_gpu(settings["accelerator"]) or processes <= most_processes():
        return None
    memory = "holds a part of the model" if is_sharded(settings) else "holds the whole model"
    return (
        f"note: trainer.devices={settings['devices']}: {processes} processes take turns on the {_cores()} that may be "
        f"used, and each {memory}; more than {most_processes()} make no run faster here"
    )


def refuse(settings: Any) -> None:
    """Raises UserError where the machine has not what is asked for."""
    if found := fault(settings):
        raise UserError(f"trainer.devices={settings['devices']}: {found}")


def faults(values: Mapping[str, Any]) -> Iterator[str]:
    """A line for every run of this machine, in a run's or a pipeline's plain configuration, that asks for what is not
    there."""
    stages = values.get("stages")
    runs = {"": values} if stages is None else {
        f"stages.{name}.": run for name, run in stages.items() if name not in values["skip"]
    }  # fmt: skip
    for prefix, run in runs.items():
        if run["trainer"].get("launcher") == "slurm" and not inside_job():
            continue  # it runs on another machine
        if found := fault(run["trainer"]):
            yield f"{prefix}trainer.devices={run['trainer']['devices']}: {found}"


def for_lightning(settings: Any) -> Any:
    """What ``lightning.Trainer(devices=...)`` takes."""
    value = _read(settings["devices"])
    if value == "auto" and started().here > 1:
        return count(settings)
    return value if isinstance(value, list) or value in ("auto", -1) else count(settings)


def _read(value: Any) -> int | str | list[int] | None:
    """A number, "auto" or a list of GPUs; None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        if text == "auto":
            return text
        if re.fullmatch(r"-?\d{1,9}", text):
            return int(text)
        if re.fullmatch(r"\d{1,9}(\s*,\s*\d{1,9})*\s*,?", text) and "," in text:
            return [int(each) for each in text.split(",") if each.strip()]
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if hasattr(value, "__iter__") and not isinstance(value, Mapping):
        numbers = list(value)
        return numbers if all(isinstance(each, int) and not isinstance(each, bool) for each in numbers) else None
    return None


def _on_gpu(accelerator: str) -> bool:
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and gpus() > 0)
