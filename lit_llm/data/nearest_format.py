"""The nearest known format of a row that has none, and the map of its columns that would make it one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lit_llm.data.column_map import written
from lit_llm.data.row_keys import known
from lit_llm.runtime.suggestions import nearest

_ANSWERS = """reply response answer output completion target assistant assistant_message bot gpt generation result
    solution agent model_answer summary translation"""
_QUESTIONS = """question query prompt input instruction request ask user user_message human source message problem
    customer context"""
ALSO_CALLED = {
    name: frozenset(words.split())
    for name, words in {
        "text": """content contents body article document passage txt page sentence paragraph abstract story raw_text
            full_text page_content transcript""",
        **dict.fromkeys(("prompt", "question", "instruction", "source"), _QUESTIONS),
        **dict.fromkeys(("completion", "answer", "output", "target"), _ANSWERS),
        "chosen": "preferred winner better positive good accepted best chosen_response response_chosen",
        "rejected": "dispreferred loser worse negative bad worst rejected_response response_rejected",
        "completions": "answers responses candidates outputs generations replies",
        "ranking": "rank rankings ranks order places",
        "messages": "conversation dialog dialogue chat turns message_list",
        "conversations": "conversation dialog dialogue chat turns",
        "label": "good is_good correct desirable thumbs_up liked",
    }.items()
}
"""What data sets call the keys of formats."""
_LISTS = ("messages", "conversations", "completions", "ranking", "ranks")
_MOST = 64  # keys that are looked at


def suggestion(
    value: Mapping[str, Any],
    formats: Iterable[tuple[str, Sequence[str]]],
    kind: str,
    *,
    guess: bool,
    renamed: Mapping[str, str],
) -> str:
    """What a message says of the columns, or "" where no format is near.

    Args:
        formats: names of formats of this kind, each with keys of which a row needs all.
        kind: of which data, for the keys that are known to say nothing.
        guess: say also what only the number of columns speaks for, and no name.
        renamed: the map of columns that the row's keys come from already; what is proposed holds it too.
    """
    found = max(_fitting(value, formats, kind), key=lambda one: one[0], default=None)
    if found is None or (found[1] and not guess):
        return ""
    _, guessed, name, columns = found
    whole = {own: columns.pop(key, key) for own, key in renamed.items()} | columns
    columns = {own: key for own, key in whole.items() if own != key}
    told = f"would make it {name}, if that is what they hold" if guessed else f"makes it {name}"
    return f"; {written(columns)} {told}"


def _fitting(
    value: Mapping[str, Any], formats: Iterable[tuple[str, Sequence[str]]], kind: str
) -> Iterator[tuple[float, bool, str, dict[str, str]]]:
    """(points, whether it is a guess, format, columns) of each format that a map makes the row fit."""
    for name, needed in formats:
        missing = [key for key in needed if key not in value]
        free = [key for key in list(value)[:_MOST] if isinstance(key, str) and key not in needed]
        columns: dict[str, str] = {}
        points = 3.0 * (len(needed) - len(missing)) + (name == "prompt_completion") / 8  # the plainest of equals
        for key in list(missing):
            column = _called(key, [one for one in free if one not in columns and _holds(value[one], key)])
            if column is not None:
                columns[column] = key
                missing.remove(key)
                points += 2
        rest = [one for one in free if one not in columns and not known(one, kind)]
        guessed = bool(missing)
        if missing and len(rest) == len(missing) and all(map(_holds, (value[one] for one in rest), missing)):
            columns |= dict(zip(rest, missing, strict=True))
            points += 0.5 * len(missing) if set(missing) <= {"text", "prompt", "completion"} else 0.1
            missing = []
        if columns and not missing:
            yield points, guessed, name, columns


def _called(key: str, free: Sequence[str]) -> str | None:
    """The column that is another name of a key, or one misspelt."""
    names: Collection[str] = ALSO_CALLED.get(key, frozenset())
    for column in free:
        if column.strip().lower().replace(" ", "_").replace("-", "_") in names:
            return column
    return nearest(key, free, cutoff=0.75)


def _holds(value: Any, key: str) -> bool:
    """Whether a value is of the kind that stands under a key; in a table every cell is a text."""
    if isinstance(value, str):
        return key not in _LISTS or value.lstrip()[:1] == "["
    return isinstance(value, list) if key in _LISTS else key == "label" and isinstance(value, bool)
