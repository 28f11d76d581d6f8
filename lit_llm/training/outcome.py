"""How a run ended that other processes ran: written by them, taken by the one that waits, as if it had run here."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_llm.checkpointing.signals import REQUEUE
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.distributed import LostProcess
from lit_llm.training.search.trial import Pruned

TERMINATED = 128 + signal.SIGTERM


def asked_to_stop(result: Path) -> Path:
    """The file that is there when the command that waits for a result has sent SIGTERM itself."""
    return result.with_suffix(".stop")


def written(
    path: Path, run: Callable[[], Any], shown: Callable[[str], str], writes: bool = True, requeue: bool = False
) -> None:
    """Call ``run`` and write what came of it: metrics, a mistake of the user's, a stop. ``shown``: hides secrets.

    ``writes``: whether this process is the one that tells; a mistake is told by whichever made it, and that another
    process is lost is not told over what that one has told. What ends a process
    without taking the others along (pruning, a signal before a limit of time) ends it in order: torchrun kills those
    beside one that failed. ``requeue``: a run that such a signal stopped goes on in the same place, so that nothing is
    told, and SystemExit says so. So does one that a SIGTERM stopped which is not the waiting command's: a scheduler
    sends it to a job that it takes away for one of more weight (and queues again), or that a person has cancelled.
    """
    result: dict[str, Any] = {}
    try:
        result = {"metrics": run()}
    except Pruned as pruned:
        result = {"pruned": str(pruned)}
    except UserError as error:
        told = isinstance(error, LostProcess) and taken_error(path) is not None
        result, writes = {} if told else {"user_error": shown(str(error))}, True
        raise SystemExit(2) from None
    except SystemExit as stop:
        soon = stop.code in REQUEUE
        taken_away = stop.code == TERMINATED and not asked_to_stop(path).exists()
        result = {} if requeue and (soon or taken_away) else {"exit": stop.code}
        if not soon or requeue:
            raise
    finally:
        if result and writes:
            write_json(path, result)


def taken_error(path: Path) -> str | None:
    """The user's mistake that was written there."""
    return (_read(path) or {}).get("user_error")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result


def taken(path: Path) -> dict[str, Any] | None:
    """The metrics that were written there; None: nothing was. Raises what the run ended with."""
    result = _read(path)
    if result is None:
        return None
    if "user_error" in result:
        raise UserError(result["user_error"])
    if "pruned" in result:
        raise Pruned(result["pruned"])
    if "exit" in result:
        raise SystemExit(result["exit"])
    metrics = result["metrics"]
    return metrics if metrics is None else dict(metrics)
