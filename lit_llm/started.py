"""How a command ended before its time: a start that failed leaves no folder, a stopped one says how it goes on."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lit_llm.run_folder import RunFolder

try:
    import fcntl
except ImportError:  # Windows: without locks
    fcntl = None  # type: ignore[assignment]

# What a run or a pipeline writes before its first step.
STARTING = (".hydra", ".lock", ".launch", ".heldout", "config.yaml", "run.json", "tokenizer", ".tokenizer-unfinished",
            "tensorboard", "csv", "heldout", "scores", "training_answers.json", "checkpoints", "log_dir")  # fmt: skip
STOPPED = (130, 143)

_begun: set[Path] = set()
_there: set[Path] = set()  # folders that were there before the command
given: list[str] = []  # the words of the command line, as they were typed


def note_begun(folder: Path) -> None:
    """The run in ``folder`` takes its first step now: from here on what it leaves is worth something."""
    _begun.add(folder.resolve())


def begun(folder: Path) -> bool:
    """Whether the run in a folder has taken a step, in this process or in others."""
    run = RunFolder(folder)
    others = (folder / ".launch").is_dir() and next(folder.rglob("events.out.*"), None) is not None
    return folder.resolve() in _begun or run.has_checkpoint or run.model.exists() or run.metrics.exists() or others


def holds_a_run(folder: Path) -> bool:
    """Whether a folder held something of a run before this command."""
    run = RunFolder(folder)
    return bool(run.state) or run.config.exists() or begun(folder)


@dataclass(frozen=True)
class Before:
    """What a folder held before a command began with it, which is never removed."""

    names: frozenset[str]
    folder: bool  # whether it was there itself, as far as the command line tells


def keep(folder: Path) -> None:
    """A folder that the command line names, before Hydra makes it: where it is there already, it stays."""
    if folder.is_dir():
        _there.update(path.resolve() for path in (folder, *folder.iterdir()) if path.is_dir())


def seen(folder: Path) -> Before | None:
    """What a folder holds now, less what Hydra has just made in it; None where a run is in it, which is never cleared.

    It is asked before anything of the run is written.
    """
    if holds_a_run(folder):
        return None
    names = {path.name for path in folder.iterdir() if not _made_by_hydra(path)} if folder.is_dir() else set()
    return Before(frozenset(names), bool(names) or folder.is_symlink() or folder.resolve() in _there)


def _made_by_hydra(path: Path) -> bool:
    """Its three files, which it writes anew at every start, and a log without a line."""
    if path.is_symlink():
        return False
    if path.name == ".hydra" and path.is_dir():
        return {one.name for one in path.iterdir()} <= {"config.yaml", "hydra.yaml", "overrides.yaml"}
    return path.suffix == ".log" and path.is_file() and path.stat().st_size == 0


def clear(folder: Path, before: Before | None) -> bool:
    """Removes what a start that failed wrote into ``folder``, then the folder and those above it in outputs/ that are
    empty. Whether it did.

    Nothing is removed that was there before, where a step was taken, where another process is at work in the folder,
    or where it holds anything new that no start writes.
    """
    if before is None or not folder.is_dir() or begun(folder):
        return False
    new = [path for path in folder.iterdir() if path.name not in before.names]
    if any(path.name not in STARTING and path.suffix != ".log" for path in new):
        return False
    with _alone_in(folder) as alone:
        if not alone:
            return False
        for path in new:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    if not before.folder:
        _remove_empty(folder)
    return True


@contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    """Holds a run's lock, if the folder has one; False: another process does."""
    try:
        file = (folder / ".lock").open("rb+")
    except OSError:
        yield True
        return
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free


def _remove_empty(folder: Path) -> None:
    here = Path.cwd().resolve()
    place = folder.resolve()
    while place != here:
        try:
            place.rmdir()
        except OSError:  # something is in it
            return
        place = place.parent
        if not (place.is_relative_to(here) and place.relative_to(here).parts[:1] == ("outputs",)):
            return


def command_of(*words: str) -> str:
    """A command line of this program, quoted for a shell."""
    program = sys.argv[0]
    start = ["python", program] if program.endswith(".py") else [Path(program).name]
    return shlex.join([*start, *words])


def how_to_go_on(folder: Path, kind: str) -> str:
    """What a command that was stopped says: the exact line that goes on. ``kind``: run, pipeline or sweep."""
    from lit_llm.overrides import quoted

    if kind == "sweep":
        rest = [word for word in given if not word.startswith("hydra.sweep.dir=")]
        return f"stopped; go on with: {command_of(*rest, f'hydra.sweep.dir={quoted(str(folder.parent))}')}"
    if kind == "pipeline":
        return f"stopped; finished stages are kept, go on with: {command_of(*given)}"
    if not begun(folder):
        return f"stopped before the first step; start again with: {command_of(*given)}"
    return f"stopped; go on with: {command_of(*_again(given), f'resume={quoted(str(folder))}')}"


def names_code(word: str) -> bool:
    """Whether an override names a function of the user's by its dotted path: a reward's, a format's."""
    key, _, value = word.partition("=")
    last = key.rpartition(".")[2]
    inside = re.search(r"[{,]\s*(function\s*:|format\s*:[^,}]*[.$])", value)
    dotted = re.search(r"[.$]", value) is not None  # a reference could bring a dotted path
    return last.lstrip("+") == "function" or (last.lstrip("+") == "format" and dotted) or inside is not None


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
