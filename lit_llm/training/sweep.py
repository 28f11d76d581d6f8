"""Sweeps: a failed job does not end one, a finished job is not run again, and a leaderboard ends it."""

from __future__ import annotations

import json
import logging
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lit_llm.config import schema
from lit_llm.config.command_line import complain, not_there
from lit_llm.config.environment import hide
from lit_llm.config.given_values import given_to_job
from lit_llm.config.interruption import STOPPED, clear, how_to_go_on, make, make_sweep
from lit_llm.config.pretrained_defaults import settled
from lit_llm.config.run_objective import refuse_incomparable
from lit_llm.config.validation import validate
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.counted import counted
from lit_llm.runtime.distributed import LostProcess, inside_worker, is_first_process, is_told_by_the_first
from lit_llm.runtime.out_of_resources import one_line
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.runtime.started_by import inside_job, started
from lit_llm.runtime.terminal import typed, wrap_logs
from lit_llm.training.search.trial import Pruned, told

log = logging.getLogger("lit_llm")

FAILED = 1e30  # large and finite: optimizing sweepers stop at an exception or a NaN
RESULT = "job.json"

said: set[Path] = set()  # folders of jobs whose error this process has told

Job = Callable[[DictConfig, Path], dict[str, Any]]


def survive(job: Job, cfg: DictConfig) -> float | None:
    """Run ``job`` in Hydra's folder. In a sweep a failure is written down and the next job goes on.

    Returns the loss on held-out data, which optimizing sweepers minimise.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    wrap_logs()  # Hydra has just made the handlers
    if not is_first_process():  # of several that torchrun or srun started one tells the story
        logging.getLogger().setLevel(logging.WARNING)
    try:
        cfg = settled(cfg, given_to_job, folder)
    except UserError as error:
        complain(error)
        raise SystemExit(2) from None
    kind = "run" if "resume" in cfg else "pipeline"
    if hydra.mode != RunMode.MULTIRUN:
        return _alone(job, cfg, folder, kind)
    identity, shown = schema.identity(cfg), hide(cfg)
    done = read(folder)
    if done.get("status") == "finished" and done.get("identity") == identity:
        log.info("%s: finished before, not run again", folder)
        return float(done["objective"])
    if "resume" in cfg and RunFolder(folder).state.get("identity") == identity:
        cfg.resume = "auto"  # a sweep begun before in this folder: the job goes on
    if started().node > 0:  # the first node's process writes what a sweep keeps
        try:
            with told(Path(hydra.sweep.dir), hydra.job.num):  # all processes are asked at each validation, or none
                return objective(job(cfg, folder))
        except Pruned:
            return FAILED
    result: dict[str, Any] = {"identity": identity, "overrides": list(hydra.overrides.task)}
    result["pipeline"] = "stages" in cfg
    try:
        validate(cfg)
        refuse_what_is_not_there(cfg)
        refuse_incomparable(schema.plain(cfg))
        with told(Path(hydra.sweep.dir), hydra.job.num):
            metrics = job(cfg, folder)
        value = objective(metrics)
        result["measure"] = metrics.get("objective_of")
        status = _status(value, metrics)
        result |= {"status": status, "objective": min(value, FAILED) if math.isfinite(value) else FAILED}
        result["metrics"] = dict(summary(metrics))
    except (KeyboardInterrupt, SystemExit) as stop:
        _stopped(stop, folder, "sweep", shown)
        raise
    except Pruned as pruned:
        log.info("%s: pruned %s", folder, pruned)
        result |= {"status": f"pruned {pruned}", "objective": FAILED}
    except Exception as error:
        line = one_line(error)
        log.error("%s", traceback.format_exc() if line is None else line)
        said.add(folder)
        first = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}" if line is None else str(line)
        result |= {"status": f"failed: {shown(first)}", "objective": FAILED}
    if result["status"] != "finished" and clear(folder):
        folder.mkdir(parents=True)  # of a start that failed only what the leaderboard tells is kept
    write_json(folder / RESULT, result)
    return float(result["objective"])


def in_sweep() -> bool:
    """Whether this process runs a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _status(value: float, metrics: Mapping[str, Any]) -> str:
    if math.isfinite(value) and value < FAILED:
        return "finished"
    what = metrics.get("objective_of", "val_loss")
    return f"failed: {what} is not a finite number" if "objective" not in metrics else f"failed: {what} not measured"


def _alone(job: Job, cfg: DictConfig, folder: Path, kind: str) -> float:
    """Outside a sweep: a user's mistake ends the command here, before Hydra writes an error of its own about it."""
    shown, begun = hide(cfg), False
    try:
        validate(cfg)
        refuse_what_is_not_there(cfg)
        begun = True
        return objective(job(cfg, folder))
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        told = None if stopped else one_line(error)
        if stopped:
            _stopped(error, folder, kind, shown)
        elif told is not None:
            words = UserError(shown(str(told)))
            _tell(told, words, folder) if begun else complain(words)
        clear(folder)
        if told is not None:
            raise SystemExit(2) from None
        # 1: Lightning's answer to Ctrl+C before the first step
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code == 1):
            raise SystemExit(130) from None
        raise


def _tell(error: UserError, shown: UserError, folder: Path) -> None:
    """Of several processes that torchrun or srun started the first one tells what all of them meet in a run; what
    another one alone meets, such as a broken row of its share, it tells itself."""
    if inside_worker() and (is_told_by_the_first(str(shown), folder) or
                            (isinstance(error, LostProcess) and not is_first_process())):  # fmt: skip
        return
    if not is_first_process():
        shown = UserError("\n".join(f"process {started().rank}: {line}" for line in str(shown).splitlines()))
    complain(shown, alone=True)


def _stopped(stop: BaseException, folder: Path, kind: str, shown: Callable[[str], str]) -> None:
    """Ctrl+C and SIGTERM: says how to go on. A job of ours does not: it is queued again, or its command says so."""
    code = stop.code if isinstance(stop, SystemExit) else 130
    if code in (1, *STOPPED) and is_first_process() and not inside_job():
        print(shown(how_to_go_on(folder, kind)), file=sys.stderr, flush=True)


def refuse_what_is_not_there(cfg: DictConfig) -> None:
    """Raises UserError for every folder, file and device that the configuration names and that is not there."""
    if lines := list(not_there(schema.plain(cfg))):
        raise UserError("\n".join(lines))


def read(folder: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return result


def objective(metrics: Mapping[str, Any]) -> float:
    """The one number of a run that is compared, less being better: what ``evaluation.objective`` names of held-out data
    (negated where more is better), else the validation loss. ``FAILED`` where nothing held out was measured: a loss of
    training data is never compared with one of held-out data."""
    value = metrics["objective"] if "objective" in metrics else metrics.get("val_loss")
    return FAILED if value is None else float(value)


def summary(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers that a leaderboard shows beside the objective."""
    if metrics.get("seconds") is not None:
        yield "seconds", float(metrics["seconds"])
    for name, scores in (metrics.get("heldout") or {}).items():
        for measure, value in scores.items():
            if value.get("mean") is not None:
                yield f"{name}/{measure}", float(value["mean"])


class Leaderboard(Callback):
    """Prints a sweep's jobs, best first, and writes ``leaderboard.json`` into the sweep's folder.

    It makes the folders of runs too, before Hydra does: only what a command made itself is ever removed by it.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        HydraConfig.instance().set_config(config)  # as Hydra does a moment later: the folder's name asks for it
        make(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        HydraConfig.instance().set_config(config)
        make_sweep(Path(config.hydra.sweep.dir))

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
    """The leaderboard as lines of text: a table for each measure that jobs are compared by, best first in each."""
    counts = [(sum(1 for row in rows if row["status"].startswith(how)), how) for how in ("failed", "pruned")]
    ended = "".join(f", {count} {how}" for count, how in counts if count)
    yield f"\nSweep {folder}: {counted(len(rows), 'job')}{ended}, best first"
    compared = list(dict.fromkeys(row.get("measure") for row in rows if row["status"] == "finished")) or [None]
    for measure in compared:
        own = [row for row in rows if row["status"] == "finished" and row.get("measure") == measure]
        rest = [row for row in rows if row["status"] != "finished"] if measure == compared[-1] else []
        yield from _lines_of(measure, [*own, *rest], rows)
    if len(compared) > 1:
        yield f"{len(compared)} measures: jobs of different tables cannot be compared"
    yield f"compare the curves: tensorboard --logdir {typed(folder)}"


def _lines_of(measure: str | None, own: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Iterator[str]:
    """One table. A measure of which more is better begins with a minus; its own values are shown, not negated."""
    name = (measure or "objective").removeprefix("-")
    more = measure is not None and measure.startswith("-")
    title = name if measure is None else f"{name} ({'more' if more else 'less'} is better)"
    measures = [key for row in own for key in row.get("metrics", {}) if key != name]
    measures = list(dict.fromkeys(measures))[:6]
    lines = [["job", title, *measures, "overrides"]]
    for row in own:
        numbers = [f"{row['metrics'][key]:.4g}" if key in row.get("metrics", {}) else "" for key in measures]
        value = f"{-row['objective'] if more else row['objective']:.5g}"
        value = value if row["status"] == "finished" else row["status"][:60]
        differing = [word for word in row["overrides"] if not all(word in other["overrides"] for other in rows)]
        lines.append([row["job"], value, *numbers, " ".join(differing)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
