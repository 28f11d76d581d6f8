"""Sweeps: a failed job does not end one, a finished job is not run again, and a leaderboard ends it."""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lit_llm import config as schema
from lit_llm.command_line import complain
from lit_llm.durable import write_json
from lit_llm.errors import UserError
from lit_llm.exhaustion import one_line
from lit_llm.given_values import given_to_job
from lit_llm.pretrained_defaults import settled
from lit_llm.run_folder import RunFolder
from lit_llm.secrets import hide
from lit_llm.validation import validate

log = logging.getLogger("lit_llm")

FAILED = 1e30  # large and finite: optimizing sweepers stop at an exception or a NaN
RESULT = "job.json"

Job = Callable[[DictConfig, Path], dict[str, Any]]


def survive(job: Job, cfg: DictConfig) -> float | None:
    """Run ``job`` in Hydra's folder. In a sweep a failure is written down and the next job goes on.

    Returns the loss on held-out data, which optimizing sweepers minimise.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    try:
        cfg = settled(cfg, given_to_job, folder)
    except UserError as error:
        complain(error)
        raise SystemExit(2) from None
    if hydra.mode != RunMode.MULTIRUN:
        return _alone(job, cfg, folder)
    identity, shown = schema.identity(cfg), hide(cfg)
    done = read(folder)
    if done.get("status") == "finished" and done.get("identity") == identity:
        log.info("%s: finished before, not run again", folder)
        return float(done["objective"])
    if "resume" in cfg and RunFolder(folder).state.get("identity") == identity:
        cfg.resume = "auto"  # a sweep begun before in this folder: the job goes on
    result: dict[str, Any] = {"identity": identity, "overrides": list(hydra.overrides.task)}
    result["pipeline"] = "stages" in cfg
    try:
        validate(cfg)
        metrics = job(cfg, folder)
        value = objective(metrics)
        status = "finished" if math.isfinite(value) and value < FAILED else "failed: the result is not a finite number"
        result |= {"status": status, "objective": min(value, FAILED) if math.isfinite(value) else FAILED}
        result["metrics"] = dict(summary(metrics))
    except Exception as error:
        told = one_line(error)
        if told is not None:
            log.error("%s", told)
            result |= {"status": f"failed: {shown(str(told))}", "objective": FAILED}
            write_json(folder / RESULT, result)
            return FAILED
        log.error("%s", traceback.format_exc())
        first = next(iter(shown(str(error)).splitlines()), "")
        result |= {"status": f"failed: {type(error).__name__}: {first}"}
        result["objective"] = FAILED
    write_json(folder / RESULT, result)
    return float(result["objective"])


def _alone(job: Job, cfg: DictConfig, folder: Path) -> float:
    """Outside a sweep: a user's mistake ends the command here, before Hydra writes an error of its own about it."""
    shown = hide(cfg)
    try:
        validate(cfg)
        return objective(job(cfg, folder))
    except Exception as error:
        told = one_line(error)
        if told is None:
            raise
        complain(UserError(shown(str(told))))
        raise SystemExit(2) from None


def read(folder: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return result


def objective(metrics: Mapping[str, Any]) -> float:
    """The one number of a run that is compared: its last validation loss, else its training loss; less is better."""
    for key in ("objective", "val_loss", "train_loss"):
        value = metrics.get(key)
        if value is not None:
            return float(value)
    return FAILED


def summary(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers that a leaderboard shows beside the objective."""
    if metrics.get("seconds") is not None:
        yield "seconds", float(metrics["seconds"])
    for name, scores in (metrics.get("heldout") or {}).items():
        for measure, value in scores.items():
            if value.get("mean") is not None:
                yield f"{name}/{measure}", float(value["mean"])


class Leaderboard(Callback):
    """Prints a sweep's jobs, best first, and writes ``leaderboard.json`` into the sweep's folder."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        folder = Path(config.hydra.sweep.dir)
        rows = [{"job": path.parent.name, **read(path.parent)} for path in folder.glob(f"*/{RESULT}")]
        rows.sort(key=lambda row: (row["objective"], row["job"]))
        if not rows:
            return
        write_json(folder / "leaderboard.json", {"jobs": rows})
        print("\n".join(table(folder, rows)))
        if only_seeds_differ(rows):
            from lit_llm.report.seeds import write_over_seeds

            file = write_over_seeds(folder, [folder / row["job"] for row in sorted(rows, key=lambda row: row["job"])])
            print(f"\n{file.read_text(encoding='utf-8')}kept in {file}")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Nothing: what a job made is read from its folder, also when another process ran it."""


def only_seeds_differ(rows: list[dict[str, Any]]) -> bool:
    """Whether a sweep is one pipeline with several seeds, all of which finished."""
    common = set.intersection(*(set(row["overrides"]) for row in rows))
    differing = [[word for word in row["overrides"] if word not in common] for row in rows]
    return (
        len(rows) > 1
        and all(row["status"] == "finished" and row.get("pipeline") for row in rows)
        and all(len(words) == 1 and words[0].startswith("seed=") for words in differing)
    )


def table(folder: Path, rows: list[dict[str, Any]]) -> Iterator[str]:
    """The leaderboard as lines of text."""
    failed = sum(1 for row in rows if row["status"] != "finished")
    yield f"\nSweep {folder}: {len(rows)} jobs{f', {failed} failed' if failed else ''}, best first"
    measures = list(dict.fromkeys(key for row in rows for key in row.get("metrics", {})))[:6]
    head = ["job", "objective", *measures, "overrides"]
    lines = [head]
    for row in rows:
        numbers = [f"{row['metrics'][key]:.4g}" if key in row.get("metrics", {}) else "" for key in measures]
        value = f"{row['objective']:.5g}" if row["status"] == "finished" else row["status"][:60]
        differing = [word for word in row["overrides"] if not all(word in other["overrides"] for other in rows)]
        lines.append([row["job"], value, *numbers, " ".join(differing)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
    yield f"compare the curves: tensorboard --logdir {folder}"
