"""What ``data.columns`` may be: a map from the rows' names of keys to the format's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from lit_llm.errors import UserError


def as_mapping(given: Mapping[str, str] | str | None) -> dict[str, str]:
    """{their name: the format's name} of a map, or of one written as a text; {} for None.

    Raises UserError for what is no such map, and for two columns that become one.
    """
    told = given
    if isinstance(given, str):
        try:
            told = yaml.safe_load(given)
        except yaml.YAMLError:
            told = given
    if told is None:
        return {}
    if not isinstance(told, Mapping) or not all(isinstance(name, str) and name.strip() for name in told.values()):
        raise UserError(
            f"data.columns={given}: a map is needed, from the rows' names to the format's, such as "
            "{question: prompt, reply: completion}"
        )
    found = {str(column): name.strip() for column, name in told.items()}
    for column, name in found.items():
        first = next(one for one, other in found.items() if other == name)
        if first != column:
            raise UserError(f"data.columns: '{first}' and '{column}' both become '{name}'; leave one of them out")
    return found


def written(columns: Mapping[str, str]) -> str:
    """The map as a word of the command line, in quotes that a shell takes."""
    inner = ", ".join(f"{_key(column)}: {name}" for column, name in columns.items())
    quote = '"' if "'" in inner else "'"
    return f"{quote}data.columns={{{inner}}}{quote}"


def _key(name: str) -> str:
    """A key as YAML reads it back."""
    plain = re.fullmatch(r"[^\W\d_]([\w .-]*[\w.-])?", name) and name.lower() not in (
        "null",
        "true",
        "false",
        "yes",
        "no",
        "on",
        "off",
    )
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
