"""Tasks of EleutherAI's lm-evaluation-harness, answered by a model of this project: names, YAML files and folders.

A task by name reads its data from the hub; a YAML with ``dataset_path: json`` and local files needs no network.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from lit_llm.backbone.loaded import LoadedModel
from lit_llm.config.task_files import MISSING, files_of
from lit_llm.errors import UserError
from lit_llm.evaluation.scores import as_plain
from lit_llm.evaluation.statistics import Estimate, ratio
from lit_llm.runtime.suggestions import nearest

HUB = "https://huggingface.co"
NOISY = ("lm_eval", "huggingface_hub", "datasets", "fsspec")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How tasks are answered: arguments of the harness's ``simple_evaluate``.

    ``limit``: the first so many items of each task, or a share below 1. ``num_fewshot``: none: as the task says.
    ``chat``: in the model's chat template.
    """

    limit: int | float | None = None
    num_fewshot: int | None = None
    batch_size: int = 64
    chat: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TaskScores:
    """One task's scores. ``version`` and ``sha256`` (of questions, prompts and right answers) tell whether two are of
    the same task."""

    task: str
    version: str
    sha256: str
    num_fewshot: int | None
    metrics: dict[str, Estimate]
    items: dict[str, list[Any]] = field(default_factory=dict, repr=False)  # of each metric, by item
    higher_is_better: dict[str, bool] = field(default_factory=dict)  # of the metrics whose task says so

    def as_json(self) -> dict[str, Any]:
        told = {name: as_plain(one) for name, one in self.metrics.items()}
        return {key: value for key, value in asdict(self).items() if key != "items"} | {"metrics": told}


def harness_version() -> str:
    """Raises UserError where it is not installed."""
    try:
        import lm_eval.api.model  # noqa: F401
    except ImportError:
        raise UserError(MISSING) from None
    return version("lm_eval")


class LoadedTasks(NamedTuple):
    """The harness's tasks and groups with their data, and the TaskManager that they are from."""

    manager: Any
    tasks: list[Any]


def load_tasks(words: Sequence[str]) -> LoadedTasks:
    """Tasks by name, YAML file, or folder of YAML files.

    Raises UserError for a name that the harness does not know, a file that is no task, data that cannot be read, and
    where the harness is not installed.
    """
    files = {word: files_of(word) for word in words}
    _without_waiting_for_the_hub()
    harness_version()
    with _quiet():
        own = None not in files.values() and not _refer_to_others(files.values())
        manager = _manager(not own)
        known = set(manager.all_tasks)
        tasks: list[Any] = []
        for word, found in files.items():
            if found is None and word not in known:
                near = nearest(word, known)
                hint = f"did you mean {near}? " if near else ""
                has = f"lm-eval {version('lm_eval')} has no task of this name"
                raise UserError(f"tasks={word}: {has}; {hint}(a file ends with .yaml)")
            for spec in [word] if found is None else [str(path) for path in found]:
                try:
                    loaded = manager.load([spec])
                except Exception as error:  # of yaml, jinja2, datasets, huggingface_hub, the harness, its tasks
                    raise UserError(f"tasks={spec}: {_why(error, found is None)}") from None
                grouped = {id(task) for group in loaded["groups"].values() for task in group.get_all_tasks()}
                tasks += [*loaded["groups"].values(), *(t for t in loaded["tasks"].values() if id(t) not in grouped)]
    return LoadedTasks(manager, tasks)


def answer(model: LoadedModel, loaded: LoadedTasks, asked: Asked, *, bf16: bool = False) -> dict[str, TaskScores]:
    """The model's scores on tasks of ``load_tasks``, by name."""
    from lm_eval import simple_evaluate

    from lit_llm.evaluation.harness_model import HarnessModel

    asks = HarnessModel(model, batch_size=asked.batch_size, bf16=bf16, seed=asked.seed, progress=True)
    with _quiet():
        try:
            found = simple_evaluate(
                model=asks,
                tasks=list(loaded.tasks),
                task_manager=loaded.manager,
                num_fewshot=asked.num_fewshot,
                limit=asked.limit,
                apply_chat_template=asked.chat,
                fewshot_as_multiturn=asked.chat,
                bootstrap_iters=1000,
                random_seed=asked.seed,
                numpy_random_seed=asked.seed,
                torch_random_seed=asked.seed,
                fewshot_random_seed=asked.seed,
            )
        except (ValueError, KeyError, AssertionError, TypeError) as error:  # of a task's fields and functions
            names = ", ".join(str(getattr(task, "task_name", getattr(task, "name", task))) for task in loaded.tasks)
            raise UserError(f"tasks={names}: {_why(error, False)}") from error
    return {name: _scores(name, found) for name in found["results"]}


def difference(before: TaskScores, after: TaskScores) -> dict[str, Estimate]:
    """after - before of each metric that both have, with the standard error of the items' differences; nan for a metric
    that is neither a mean nor bits per byte of its items."""
    changes = {}
    for name in before.metrics.keys() & after.metrics.keys():
        change = after.metrics[name].mean - before.metrics[name].mean
        first, second = before.items.get(name, []), after.items.get(name, [])
        error = math.nan
        if first and len(first) == len(second) and before.sha256 == after.sha256:
            one, other = item_sums(name, first), item_sums(name, second)
            if one is not None and other is not None:
                error = ratio(other[:, 0] - one[:, 0], one[:, 1]).se
        changes[name] = Estimate(change, error, after.metrics[name].n)
    return changes


def item_sums(name: str, items: Sequence[Any]) -> NDArray[np.float64] | None:
    """(n, 2), value and weight of each item of a metric, which is the sum of the values by that of the weights; None
    for a metric that is neither a mean nor bits per byte of its items."""
    if _are_sums(name, items):
        return np.array([(_bits(one), one[1]) for one in items], dtype=np.float64).reshape(-1, 2)
    if _are_numbers(items):
        return np.array([(one, 1.0) for one in items], dtype=np.float64).reshape(-1, 2)
    return None


# ---- how ---------------------------------------------------------------------------------------------------------


@cache
def _manager(with_the_harness_s_own: bool) -> Any:
    """To read all that the harness has takes ten seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=with_the_harness_s_own)


def _refer_to_others(files: Iterable[Sequence[Path] | None]) -> bool:
    """Whether one is a group, whose parts may be the harness's own tasks."""
    return any("group:" in path.read_text(encoding="utf-8") for found in files for path in found or ())


def _without_waiting_for_the_hub() -> None:
    """Where the hub's name is not found, its clients are told so before they are imported: else each file is asked for
    six times within half a minute. Data sets that were read before are found all the same."""
    if any(key.lower() in ("https_proxy", "all_proxy") for key in os.environ):
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT", HUB)).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _why(error: Exception, by_name: bool) -> str:
    told = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {told[0][:200]}" if told else type(error).__name__
    if by_name:
        return (
            f"its data was not found ({line}); a task by name reads the hub: without a network give a YAML whose "
            "dataset_path is json, with local data_files"
        )
    return f"no task that lm-eval takes ({line})"


@contextmanager
def _quiet() -> Iterator[None]:
    """Errors only, of what else tells of every task's every step."""
    loggers = [logging.getLogger(name) for name in NOISY]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


def _scores(name: str, found: Mapping[str, Any]) -> TaskScores:
    """What the harness writes as {"acc,none": 0.5, "acc_stderr,none": 0.1, ...}; a filter's name stays with the metric
    where there is one."""
    samples = found.get("samples", {}).get(name, [])
    count = found["n-samples"].get(name, {}).get("effective", 0)
    metrics, items, better = {}, {}, {}
    directions = found.get("higher_is_better", {}).get(name) or {}
    for key, value in found["results"][name].items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        told = metric if kind == "none" else f"{metric},{kind}"
        items[told] = [one[metric] for one in samples if one.get("filter", kind) == kind and metric in one]
        if isinstance(directions.get(metric), bool):
            better[told] = directions[metric]
        error = found["results"][name].get(f"{metric}_stderr,{kind}")
        se = float(error) if isinstance(error, int | float) else math.nan
        if _are_sums(told, items[told]):
            se = ratio([_bits(one) for one in items[told]], [size for _, size in items[told]]).se
        metrics[told] = Estimate(float(value), se, count)
    hashed = "".join(one["doc_hash"] + one["prompt_hash"] + one["target_hash"] for one in samples)  # as the harness's
    return TaskScores(
        name,
        str(found["versions"].get(name, "")),
        hashlib.sha256(hashed.encode()).hexdigest() if samples else "",
        found["n-shot"].get(name),
        metrics,
        items,
        better,
    )


def _are_sums(name: str, items: Sequence[Any]) -> bool:
    """Whether these are (log-probability, bytes) of bits per byte."""
    return name == "bits_per_byte" and all(isinstance(one, tuple | list) and len(one) == 2 for one in items)


def _are_numbers(items: Sequence[Any]) -> bool:
    return all(isinstance(one, int | float | np.number) for one in items)


def _bits(item: Sequence[float]) -> float:
    return -item[0] / math.log(2)
