"""Tasks of lm-evaluation-harness in the ledger: each stage's scores beside those of the model that it started from.

Read from ``tasks.json``, which ``scripts/evaluate.py run=RUN tasks=...`` writes into a run's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lit_llm.errors import UserError
from lit_llm.evaluation.harness import TaskScores, item_sums
from lit_llm.evaluation.ledger import Pair, compare, verdict
from lit_llm.evaluation.statistics import holm
from lit_llm.runtime.run_folder import TASKS

TESTED = ("p", "test", "low", "high", "noise_floor", "improved", "worsened")


def paired_tests(before: TaskScores, after: TaskScores) -> dict[str, dict[str, Any]]:
    """The ledger's test of each metric on the items of both, one entry of ``TESTED`` each; none for a metric that is
    neither a mean nor bits per byte of its items, and none where the two were not asked the same."""
    found = {}
    for name in after.metrics if before.sha256 == after.sha256 else ():
        first, second = item_sums(name, before.items.get(name, [])), item_sums(name, after.items.get(name, []))
        if first is None or second is None or not len(first) or len(first) != len(second):
            continue
        numbers = np.arange(len(first), dtype=np.int64)
        pair = Pair(numbers, first[:, 0], second[:, 0], second[:, 1], [str(n) for n in numbers])
        binary = bool(np.isin(pair.before, (0, 1)).all() and np.isin(pair.after, (0, 1)).all())
        told = compare(pair, binary=binary, good=_good(after.higher_is_better.get(name)))
        found[name] = {key: told[key] for key in TESTED}
    return found


def task_changes(stages: Mapping[str, tuple[str | None, Path]]) -> list[dict[str, Any]]:
    """One entry for each stage, task and metric of the stages' ``tasks.json``, as the ledger's: stage, set (the task),
    metric, against, before, after, change (each mean, se, n), p, p_adjusted (over all of these), test, verdict; and
    version, num_fewshot, limit and chat, as the task was asked.

    Args:
        stages: of each the stage that it started from, and its run's folder; in the order in which they were trained.

    Raises UserError for a damaged tasks.json.
    """
    found = [entry for stage, (parent, folder) in stages.items() for entry in _entries(stage, parent, folder / TASKS)]
    tested = [entry for entry in found if entry["p"] is not None and _good(entry["higher_is_better"])]
    for entry, adjusted in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
        entry["p_adjusted"] = adjusted
        entry["verdict"] = verdict(entry, _good(entry["higher_is_better"]))
    return found


def _entries(stage: str, parent: str | None, file: Path) -> Iterator[dict[str, Any]]:
    for name, task in _tasks(file).items():
        before = (task.get("before") or {}).get("metrics") or {}
        for metric, after in (task.get("metrics") or {}).items():
            entry: dict[str, Any] = {"stage": stage, "set": name, "metric": metric, "against": parent}
            entry |= {key: task.get(key) for key in ("version", "num_fewshot", "limit", "chat")}
            entry |= {"higher_is_better": (task.get("higher_is_better") or {}).get(metric)}
            entry |= {"before": before.get(metric), "after": after}
            entry |= {"change": (task.get("difference") or {}).get(metric)}
            entry |= dict.fromkeys((*TESTED, "p_adjusted", "verdict"))
            yield entry | ((task.get("tests") or {}).get(metric) or {})


def _tasks(file: Path) -> Mapping[str, Mapping[str, Any]]:
    """By name; none where there is no such file."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["tasks"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, Mapping) or not all(isinstance(task, Mapping) for task in found.values()):
        raise UserError(f"{file}: holds no tasks by name; delete it and evaluate the run again with tasks=")
    return found


def _good(higher_is_better: bool | None) -> int:
    """1 where more is better, -1 where less is, 0 where the task does not say."""
    return 0 if higher_is_better is None else 1 if higher_is_better else -1
