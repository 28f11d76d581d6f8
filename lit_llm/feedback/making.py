"""A new ranking project: with its items or not there at all, however long the answers took to compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lit_llm.data.projects import place_of, shown
from lit_llm.errors import UserError
from lit_llm.feedback.store.engine import Store, open_store
from lit_llm.feedback.store.projects import ProjectSettings, create_project, settings

T = TypeVar("T")


def is_there(place: str) -> bool:
    """Whether a database (a file, or a server's with a project in it) is at ``place``."""
    name = place_of(place)
    if "://" not in name:
        return Path(name).exists()
    store = open_store(name, create=True)
    try:
        settings(store)
    except UserError:
        return False
    finally:
        store.close()
    return True


def check_free(place: str) -> None:
    """Raises UserError unless a project can be made at ``place``: asked before the answers are computed."""
    if is_there(place):
        told = shown(place)
        raise UserError(f"project={told}: is there already; project={told} alone goes on, another name makes another")
    name = place_of(place)
    if "://" not in name:
        unfinished = _unfinished(Path(name))
        try:
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            unfinished.touch()
            unfinished.unlink()
        except OSError as error:
            raise UserError(f"project={place}: cannot be made ({error.strerror or error})") from None


def make(place: str, of: ProjectSettings, fill: Callable[[Store], T]) -> tuple[Store, T]:
    """A project that ``fill`` has put items in, and what ``fill`` returned.

    A file has another name until it is whole. On a server the project is there, empty, before its items are.
    Raises UserError as ``check_free``, and what ``fill`` raises.
    """
    check_free(place)
    name = place_of(place)
    if "://" in name:
        store = open_store(name, create=True)
        create_project(store, of)
        return store, fill(store)
    path, unfinished = Path(name), _unfinished(Path(name))
    try:
        store = open_store(unfinished, create=True)
        try:
            create_project(store, of)
            found = fill(store)
        finally:
            store.close()
        unfinished.rename(path)
    except OSError as error:
        raise UserError(f"project={place}: cannot be made ({error.strerror or error})") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return open_store(path), found


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")
