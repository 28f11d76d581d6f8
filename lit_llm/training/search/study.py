"""Optuna's study: where it is kept, how it is opened, and what builds its sampler and pruner."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_llm.config.targets import construct
from lit_llm.errors import UserError

if TYPE_CHECKING:
    import optuna

FILE = "study.db"


def require() -> None:
    """Raises UserError where Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("hydra/sweeper=optuna: optuna is missing; pip install 'lit-llm[optuna]'")


def place_of(storage: str | None, sweep: Path) -> str:
    """The storage as it is written down: an absolute file, or a database's URL."""
    if storage is None:
        return f"sqlite:///{(sweep / FILE).resolve()}"
    if "://" in storage:
        return storage
    if not storage.endswith(".log"):
        raise UserError(
            f"hydra.sweeper.storage={storage}: must be a database's URL such as sqlite:///FILE, or FILE.log, a journal"
        )
    return str(Path(storage).expanduser().resolve())


def shown(place: str) -> str:
    """A storage as it may be written: without a password."""
    return re.sub(r"(://[^:/@\s]*:)[^@]+(?=@)", r"\1***", place)


def opened(place: str) -> optuna.storages.BaseStorage:
    """The storage at a place that :func:`place_of` named. Raises UserError where it cannot be opened."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it says of each trial the leaderboard says
    try:
        if "://" not in place:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            return optuna.storages.JournalStorage(JournalFileBackend(place))
        if place.startswith("sqlite:///"):
            Path(place.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        # A transaction of another process is waited for, not an error: several trials report at the same moment.
        engine = {"connect_args": {"timeout": 60}} if place.startswith("sqlite") else {}
        return optuna.storages.RDBStorage(place, engine_kwargs=engine)
    except Exception as error:
        raise UserError(f"hydra.sweeper.storage={shown(place)}: cannot be opened ({_first_line(error)})") from None


@contextmanager
def reached(place: str) -> Iterator[None]:
    """Within, a storage that is locked, full, read-only or gone raises UserError: the search goes on another time."""
    import optuna

    try:
        yield
    except (optuna.exceptions.StorageInternalError, OSError) as error:
        reason = _first_line(error.__cause__ or error)
        raise UserError(
            f"hydra.sweeper.storage={shown(place)}: {reason}; what was found is kept, the same command goes on with it"
        ) from None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def sampler(node: Mapping[str, Any], seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of a trial. One whose draws follow each other in order (quasi-random) keeps one seed for all."""
    one: optuna.samplers.BaseSampler = _made(
        node, "sampler", {"seed": seed if "QMC" in str(node["_target_"]) else seed + number}
    )
    return one


def pruner(node: Mapping[str, Any] | None) -> optuna.pruners.BasePruner:
    import optuna

    made: optuna.pruners.BasePruner = optuna.pruners.NopPruner() if node is None else _made(node, "pruner", {})
    return made


def _made(node: Mapping[str, Any], name: str, more: Mapping[str, Any]) -> Any:
    """A class of Optuna's from its options; those of ``more`` that it takes are added where they are not given."""
    import optuna

    target = str(node["_target_"])
    kind = getattr(getattr(optuna, f"{name}s"), target.rpartition(".")[2], None)
    if not isinstance(kind, type):
        raise UserError(f"hydra.sweeper.{name}._target_={target}: optuna has no such {name}")
    taken = inspect.signature(kind).parameters
    values = {**{key: value for key, value in more.items() if key in taken}, **node}
    if unknown := [key for key in values if key not in taken and not key.startswith("_")]:
        known = ", ".join(taken)
        raise UserError(f"hydra.sweeper.{name}.{unknown[0]}={values[unknown[0]]}: unknown key; there are {known}")
    try:
        return construct(values, name, ["optuna."], path=f"hydra.sweeper.{name}")
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"hydra.sweeper.{name}: {_first_line(error)}") from None
