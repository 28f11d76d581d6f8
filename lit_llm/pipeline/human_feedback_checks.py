"""What can be said of people's rankings and verdict before the first step: that they are there, and can be read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from lit_llm.config.environment import passwords_in, real_text
from lit_llm.data.projects import is_project
from lit_llm.data.sources import resolve
from lit_llm.errors import UserError
from lit_llm.pipeline.human_feedback import ASK, SIMULATED, found_win_rate

PACKAGES = ("sqlalchemy", "argon2", "fastapi")  # of the ranking app


def check(values: Mapping[str, Any]) -> None:
    """Raises UserError, before the first step, unless there are rankings where people's are said to be."""
    for line in passwords_in(values):  # the configuration is written into every folder that a pipeline makes
        raise UserError(line)
    path, win_rate = values["rankings"], values["win_rate"]
    needed = [f"rankings={path}"] if path == ASK or (path != SIMULATED and is_project(real_text(path))) else []
    needed += [f"win_rate={win_rate}"] if win_rate is not None else []
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if needed and missing:
        raise UserError(
            f"{needed[0]}: needs the ranking app ({missing[0]} is missing); pip install 'lit-llm[feedback]'"
        )
    if path not in (SIMULATED, ASK):
        _check_rankings(path)
    if win_rate is not None:
        found_win_rate(win_rate)


def _check_rankings(path: str) -> None:
    try:
        place = real_text(path)
        resolve(place)
    except UserError as error:
        raise UserError(f"rankings={path}: {str(error).removeprefix('data.path').lstrip(':= ')}") from None
    if is_project(place) and _kind(place) == "comparison":
        raise UserError(
            f"rankings={path}: is a project of comparisons of two models, which is a verdict and nothing to learn "
            f"from; give it as win_rate={path}, or another project as rankings="
        )


def _kind(place: str) -> str:
    from lit_llm.feedback.store.engine import open_store
    from lit_llm.feedback.store.projects import settings

    store = open_store(place)
    try:
        return settings(store).kind
    finally:
        store.close()
