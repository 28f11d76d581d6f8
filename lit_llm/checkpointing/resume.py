"""Which checkpoint a run goes on from."""

from __future__ import annotations

import logging
from pathlib import Path

from lit_llm.checkpointing import atomic
from lit_llm.errors import UserError

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
PATTERN = "step-*.ckpt"


def checkpoint_name(step: int) -> str:
    return f"step-{step:09d}.ckpt"


def find_checkpoint(run_folder: str | Path) -> Path | None:
    """The newest checkpoint of a run that verifies; each newer one that does not is named in a warning.

    None if the run was stopped before its first one was finished: one file without a manifest, which stays where it
    is. Raises UserError if there are some and all are bad, or several without manifests, which a stopped run cannot
    leave: a run never starts afresh silently.
    """
    folder = Path(run_folder) / CHECKPOINTS
    if not Path(run_folder).is_dir():
        raise UserError(f"{run_folder}: no such run folder to resume")
    newest_first = sorted(folder.glob(PATTERN), reverse=True)
    problems = []
    for path in newest_first:
        try:
            atomic.check(path)
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            log.warning("not resumed from: %s", problem)
        log.info("resuming from %s", path)
        return path
    unfinished = [path for path in newest_first if not atomic.manifest_path(path).is_file()]
    if len(newest_first) == len(unfinished) == 1:  # cut off before its manifest: nothing was ever finished
        log.warning("%s: was not finished; the run starts anew", unfinished[0])
        return None
    if len(unfinished) == len(newest_first) > 1:
        raise UserError(
            f"{folder}: none of {len(unfinished)} checkpoints has its manifest (such as "
            f"{atomic.manifest_path(newest_first[0]).name}): copy the manifests beside them, or start a run in another "
            "folder"
        )
    if problems:
        raise UserError(f"{folder}: no checkpoint can be resumed from: " + "; ".join(problems))
    return None
