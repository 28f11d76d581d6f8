"""YAML files of other people's hands: what is wrong with one is told in a line, before anything is made of it.

Aliases are counted as what they stand for, so that a file of a few bytes cannot become gigabytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_llm.errors import UserError

BYTES = 4 * 1024 * 1024
VALUES = 100_000  # with every alias written out
BOM = "\ufeff"
_PLAIN = {"str", "int", "float", "bool", "null", "map", "seq", "merge", "timestamp"}


def check(path: Path, kind: type = dict) -> None:
    """Raises UserError, naming file and line, unless the file is plain YAML whose top is a mapping (or a list)."""
    text = _text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise UserError(_malformed(path, text, error)) from None
    except yaml.YAMLError as error:
        character = getattr(error, "character", None)
        what = f"the character {character!r}" if character is not None else " ".join(str(error).split())[:120]
        raise UserError(f"{path}: {what} cannot be in YAML; write plain text") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deep; a configuration has a few levels") from None
    if node is None:
        return
    wanted, said = (yaml.MappingNode, "a mapping (key: value)") if kind is dict else (yaml.SequenceNode, "a list")
    if not isinstance(node, wanted):
        holds = {"scalar": "one value", "sequence": "a list", "mapping": "a mapping"}[node.id]
        raise UserError(f"{path}: holds {holds}; {said} is needed")
    try:
        _size(path, node, {})
    except RecursionError:
        raise UserError(f"{path}: nested too deep; a configuration has a few levels") from None


def load(path: Path, kind: type = dict) -> Any:
    """The file as OmegaConf reads it. Raises UserError as :func:`check` does."""
    check(path, kind)
    try:
        return OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: {next(iter(str(error).splitlines()), type(error).__name__)}") from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > BYTES:
        raise UserError(f"{path}: over {BYTES // 2**20} MB; a configuration is smaller")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 at byte {error.start}; save it as UTF-8 text") from None
    if text.startswith(BOM):
        raise UserError(f"{path}:1: begins with a byte order mark; save it as UTF-8 without one")
    return text


def _malformed(path: Path, text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"{path}: {error.problem}"
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    tab = "\t" in line[: mark.column + 1]
    what = "a tab; indent with spaces" if tab else f"{error.problem or error.context}; not YAML"
    return f"{path}:{mark.line + 1}: {' '.join(what.split())}"


def _size(path: Path, node: yaml.Node, known: dict[int, int | None]) -> int:
    """How many values a node holds, with every alias written out. ``known``: None marks those begun and not ended."""
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise UserError(f"{_where(path, node)}: is a part of itself (an alias); write the values out")
        return found
    known[id(node)] = None
    if node.tag.removeprefix("tag:yaml.org,2002:") not in _PLAIN:
        raise UserError(f"{_where(path, node)}: the tag {node.tag[:60]}; give plain YAML without tags")
    total = 1
    for item in _inside(path, node):
        total += _size(path, item, known)
        if total > VALUES:
            raise UserError(f"{_where(path, node)}: over {VALUES:,} values with its aliases written out; give fewer")
    known[id(node)] = total
    return total


def _inside(path: Path, node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{_where(path, key)}: a key that is no word; write key: value")
        if key.value in keys and key.value != "<<":
            raise UserError(f"{_where(path, key)}: the key {key.value} is there twice; keep one")
        keys.add(key.value)
    return [item for pair in node.value for item in pair]


def _where(path: Path, node: yaml.Node) -> str:
    return f"{path}:{node.start_mark.line + 1}"
