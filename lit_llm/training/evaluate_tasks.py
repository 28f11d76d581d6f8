"""Tasks of lm-evaluation-harness for ``scripts/evaluate.py``: answered by what a run started from and by what it made.

``tasks.json``: {"lm_eval", "tasks": {name: {"version", "sha256", "num_fewshot", "limit", "chat", "seed",
"weights_sha256", "metrics", "higher_is_better", and of a run with a start "before": {"weights_sha256", "metrics"},
"difference", "tests"}}}.
Tasks of an earlier call stay.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lit_llm.backbone.huggingface import check_vocabulary
from lit_llm.backbone.loaded import LoadedModel, load_shared
from lit_llm.evaluation.harness import Asked, TaskScores, answer, difference, harness_version, load_tasks
from lit_llm.evaluation.scores import as_plain
from lit_llm.evaluation.statistics import Estimate
from lit_llm.evaluation.task_changes import paired_tests
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.run_folder import TASKS


def default_device() -> torch.device:
    """Where a model without a run is evaluated."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def answer_tasks(
    words: Sequence[str],
    model: Path,
    asked: Asked,
    device: torch.device,
    outputs: Sequence[Path] = (),
    start: Path | None = None,
) -> str:
    """The table of the scores of ``model`` on tasks, and beside them those of ``start``, which it came from, where that
    folder is there; written to ``tasks.json`` in each of ``outputs``. Errors as ``load_tasks`` and ``load_shared``."""
    tasks = load_tasks(words)
    found: dict[str, tuple[str, dict[str, TaskScores]]] = {}
    for place in (model, *([start] if start is not None and start.is_dir() else [])):
        loaded = load_shared(place)
        check_vocabulary(loaded.model.config, loaded.tokenizer.vocab_size, place)
        loaded.model.to(device)
        found[str(place)] = loaded.sha256, answer(loaded, tasks, asked, bf16=_in_bf16(loaded, device))
        loaded.model.to("cpu")
    (weights, after), *others = found.values()
    before_weights, before = others[0] if others else ("", {})
    entries: dict[str, dict[str, Any]] = {}
    lines = [f"lm-eval {harness_version()}"]
    for name, scores in after.items():
        entry = {**scores.as_json(), "limit": asked.limit, "chat": asked.chat, "seed": asked.seed}
        entries[name] = entry | {"weights_sha256": weights}
        changes: dict[str, Estimate] = {}
        if name in before:
            changes = difference(before[name], scores)
            earlier = {"weights_sha256": before_weights, "metrics": before[name].as_json()["metrics"]}
            told = {metric: as_plain(one) for metric, one in changes.items()}
            entries[name] |= {"before": earlier, "difference": told, "tests": paired_tests(before[name], scores)}
        lines += _lines(scores, before.get(name), changes, entries[name].get("tests", {}))
    for folder in outputs:
        _write(folder / TASKS, entries)
    return "\n".join(lines)


def _in_bf16(loaded: LoadedModel, device: torch.device) -> bool:
    """As its folder is stored, on a GPU; a CPU computes in float32."""
    stored = loaded.model.stored
    return device.type == "cuda" and stored is not None and stored.main == torch.bfloat16


def _lines(
    scores: TaskScores, before: TaskScores | None, changes: Mapping[str, Estimate], tested: Mapping[str, Any]
) -> list[str]:
    shots = f", {scores.num_fewshot} examples before each" if scores.num_fewshot else ""
    lines = [f"{scores.task} (version {scores.version}{shots})" if scores.version else scores.task]
    for metric, value in scores.metrics.items():
        line = f"  {metric:<26} {_told(value):<20} n={value.n:<6}"
        if before is not None and metric in changes:
            line += f" before {_told(before.metrics[metric])}, difference {_told(changes[metric], sign=True)}"
            line += f", p = {tested[metric]['p']:.2g} ({tested[metric]['test']})" if metric in tested else ""
        lines.append(line.rstrip())
    return lines


def _told(value: Estimate, sign: bool = False) -> str:
    shown = f"{value.mean:+.4g}" if sign else f"{value.mean:.4g}"
    return shown + (f" ± {value.se:.2g}" if math.isfinite(value.se) else "")


def _write(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    known: dict[str, Any] = {}
    if path.is_file():
        try:
            known = dict(json.loads(path.read_text(encoding="utf-8"))["tasks"])
        except (ValueError, KeyError, TypeError):
            known = {}  # not ours, or cut off: written anew
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"lm_eval": harness_version(), "tasks": {**known, **entries}})
