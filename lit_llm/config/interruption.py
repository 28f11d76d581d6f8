"""How a command ended before its time: a start that failed leaves no folder, a stopped one says how it goes on."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_llm.checkpointing.signals import REQUEUE
from lit_llm.errors import UserError
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.runtime.run_lock import RunLock

# What a run or a pipeline writes before its first step.
STARTING = (".hydra", ".lock", ".launch", ".heldout", "config.yaml", "run.json", "tokenizer", ".tokenizer-unfinished",
            "tensorboard", "csv", "heldout", "scores", "training_answers.json", "checkpoints", "log_dir",
            "vocabulary.json")  # fmt: skip
# How the names of TensorBoard's files begin, and those of what starts the processes of a further node.
BEGINNINGS = ("events.out.tfevents.", ".launch-")
STOPPED = (130, 143, *REQUEUE)

_begun: set[Path] = set()
_made: dict[Path, list[Path]] = {}  # folders that this command made, behind those above them that it made too
_sweeps: dict[Path, set[str]] = {}  # what was in the folder of a sweep before this command
given: list[str] = []  # the words of the command line, as they were typed


def note_begun(folder: Path) -> None:
    """The run in ``folder`` takes its first step now: from here on what it leaves is worth something."""
    _begun.add(folder.resolve())


def begun(folder: Path) -> bool:
    """Whether the run in a folder has taken a step, in this process or in others."""
    run = RunFolder(folder)
    others = (folder / ".launch").is_dir() and next(folder.rglob("events.out.*"), None) is not None
    return folder.resolve() in _begun or run.has_checkpoint or run.model.exists() or run.metrics.exists() or others


def _absolute(folder: Path) -> Path:
    return Path(os.path.abspath(folder))  # noqa: PTH100  (as Hydra does: links are not followed)


def make(folder: Path) -> None:
    """Makes a folder, and notes that this command did: what was there before it is never removed.

    A folder that another process makes at the same moment is that one's.
    """
    folder = _absolute(folder)
    new: list[Path] = []
    for place in reversed([folder, *folder.parents]):
        try:
            place.mkdir()
            new.append(place)
        except OSError:  # it is there, or cannot be made: whoever writes into it tells of that
            continue
    if folder in new:
        _made[folder] = new


def make_sweep(folder: Path) -> None:
    """As ``make``, for a sweep: of its jobs' folders those are this command's that are not there yet."""
    make(folder)
    _sweeps[_absolute(folder)] = {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _new(folder: Path) -> list[Path] | None:
    """A folder that this command made, behind those above it that it made too; None where it did not."""
    before = _sweeps.get(folder.parent)
    job = [folder] if before is not None and folder.name not in before else None
    return _made.get(folder, job)


def clear(folder: Path) -> bool:
    """Removes the folder of a start that failed, if this command made it, and those above it that it made and that are
    empty then.

    Nothing is removed where a step was taken, where another process is at work, or where the folder holds anything that
    no start writes.
    """
    new = _new(_absolute(folder))
    if new is None or not folder.is_dir() or folder.is_symlink() or begun(folder):
        return False
    inside = list(folder.iterdir())
    if not all(path.name.startswith(BEGINNINGS) or path.name in STARTING or path.suffix == ".log" for path in inside):
        return False
    try:
        with RunLock(folder):
            for path in inside:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            (folder / ".lock").unlink(missing_ok=True)
    except UserError:  # in use
        return False
    for place in reversed(new):
        try:
            place.rmdir()
        except OSError:  # something is in it
            break
    _made.pop(new[-1], None)
    return True


def clear_unused() -> None:
    """Removes what this command made for a sweep that never began."""
    for folder in list(_sweeps):
        clear(folder)


def command_of(*words: str) -> str:
    """A command line of this program, quoted for a shell."""
    program = sys.argv[0]
    start = ["python", program] if program.endswith(".py") else [Path(program).name]
    return shlex.join([*start, *words])


def how_to_go_on(folder: Path, kind: str) -> str:
    """What a command that was stopped says: the exact line that goes on. ``kind``: run, pipeline or sweep."""
    from lit_llm.config.overrides import quoted

    if kind == "sweep":
        rest = [word for word in given if not word.startswith("hydra.sweep.dir=")]
        return f"stopped; go on with: {command_of(*rest, f'hydra.sweep.dir={quoted(str(folder.parent))}')}"
    if kind == "pipeline":
        return f"stopped; finished stages are kept, go on with: {command_of(*given)}"
    if not begun(folder):
        return f"stopped before the first step; start again with: {command_of(*given)}"
    return f"stopped; go on with: {command_of(*_again(given), f'resume={quoted(str(folder))}')}"


def names_code(word: str) -> bool:
    """Whether an override names code of the user's: a function by its dotted path (a reward's, a format's), a file
    outside the groups, which may name any, or a text that becomes a value of any kind only when it is read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from lit_llm.config.conf_files import conf_folder

    try:
        found = OverridesParser.create().parse_override(word)
        value = list(found.sweep_iterator()) if found.is_sweep_override() else found.value()
    except HydraException:  # told of when all of them are composed
        return False
    group = (conf_folder() / found.key_or_group).is_dir()
    return _code_in(found.key_or_group.rpartition(".")[2], value) or (group and ".." in str(value))


# Other values of the configuration, and what the environment of whoever reads it says.
_ONLY_READ = re.compile(r"\$\{oc\.decode:\$\{oc\.env:[^${},]*\}\}|\$\{oc\.env:[^${}]*\}|\$\{[\w.]+\}")


def _code_in(key: str, value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_code_in(str(name), item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return any(_code_in(key, item) for item in value)
    text = str(value)
    return key == "function" or (key == "format" and "." in text) or "${" in _ONLY_READ.sub("", text)


def _again(words: Sequence[str]) -> list[str]:
    """What a run's folder does not hold of its command line: the user's own folder, and the code that may run."""
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word in ("--config-dir", "-cd"):
            kept += [word, *rest[:1]]
        elif word.startswith(
            ("--config-dir=", "allowed_targets=", "stage.reward.function=", "data.format=", "format=")
        ):
            kept.append(word)
    return kept
