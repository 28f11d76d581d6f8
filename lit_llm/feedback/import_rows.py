"""Rows of files as items to import: prompts with answers, and what annotators said of them, checked as read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lit_llm.data import row_keys
from lit_llm.data.conversations import CONTEXT, check_order, in_context, prompt_of, untrained
from lit_llm.data.file_rows import Row, read_rows
from lit_llm.data.filters import cleaned
from lit_llm.data.preference_formats import completion_text, ranking, tags_of, who_said
from lit_llm.data.sources import resolve
from lit_llm.data.splits import UNDIVIDED, split_name
from lit_llm.errors import UserError
from lit_llm.feedback import judgement_json
from lit_llm.feedback.store.judgement import Judgement, checked
from lit_llm.feedback.store.projects import MOST_CANDIDATES, ProjectSettings
from lit_llm.feedback.store.refusals import Invalid
from lit_llm.feedback.store.storable import unstorable
from lit_llm.records import Message

_READ = (
    "prompt", "completions", "ranking", "ranks", "annotator", "annotator_id", "weight", "simulated", "split", "schema",
    "seconds", "comment", "submitted_at", "agreement", "kind", "task", "prompt_hash", "model", "all_bad", "too_fast",
    "adjudicated", "repeat_of",
)  # fmt: skip
LONGEST_PSEUDONYM = 40


@dataclass(frozen=True)
class Answer:
    """Where an answer is from, and its place on the page, from 1, where that is known."""

    model: str
    checkpoint: str
    position: int | None


@dataclass(frozen=True)
class Said:
    """One annotator's ranking. ``judgement`` names answers by their place in the row; ``texts`` says which they are."""

    where: str
    annotator: str
    simulated: bool
    at: float | None  # when it was submitted, seconds since 1970
    judgement: Judgement
    texts: Mapping[str, str]
    positions: Mapping[str, int]  # text -> place on the page, from 1; empty where that is not known of all


@dataclass
class Asked:
    """One item of the file: a prompt with its answers, and what annotators said of them."""

    messages: tuple[Message, ...]
    split: str
    tags: dict[str, str]
    answers: dict[str, Answer]  # by text
    rankings: list[Said] = field(default_factory=list)


def read_items(path: str, gold: bool = False) -> list[Asked]:
    """The items of files: rows of the ranking format, or ``prompt`` and ``completions`` alone.

    Rankings of the same answers to the same prompt are one item. The split is the row's ``split``, or what the file's
    name says among files of several splits (train, test), else train: one file alone is all there is. Ranks are made
    dense (1, 3, 3 is 1, 2, 2). ``gold``: the row's ranks are what is known.

    Raises UserError with file and line for whatever a project could not keep.
    """
    found: dict[tuple[Any, ...], Asked] = {}
    for home, files in resolve(path).items():
        for row in read_rows(files):
            if not isinstance(row, Row):
                raise UserError(str(row))
            one = _asked(row, "train" if home == UNDIVIDED else home)
            if gold:
                _check_gold(one, row.where)
            known = found.setdefault((one.messages, frozenset(one.answers)), one)
            if known is not one:
                known.rankings += one.rankings
    if not found:
        raise UserError(f"rows={path}: no row in it; each has prompt and completions, and perhaps ranking")
    return list(found.values())


def _check_gold(one: Asked, where: str) -> None:
    if not one.rankings:
        raise UserError(f"{where}: no 'ranking'; a gold item has the ranks that are known")
    if len({rank for rank in one.rankings[0].judgement.ranks.values() if rank is not None}) < 2:
        raise UserError(f"{where}: 'ranking' ties all; a gold item says which answer is better")


def _asked(row: Row, home: str) -> Asked:
    if isinstance(row.value, str) or not {"prompt", "completions"} <= set(row.value):
        keys = "a text" if isinstance(row.value, str) else f"keys {', '.join(list(row.value)[:8]) or 'none'}"
        raise UserError(f"{row.where}: {keys}; prompt and completions are needed, and ranking where there is one")
    where, texts = row.where, ("prompt", "completions", "unranked", *CONTEXT)  # cleaned as training reads them
    value = {key: cleaned(one, Counter()) if key in texts else one for key, one in row.value.items()}
    _check_keys(value, where)
    told = in_context(value, prompt_of(value["prompt"], "prompt", where), where)
    messages, answers = check_order(untrained(told), "user", where), _answers(value, where)
    split = home
    if value.get("split") is not None:
        _need(isinstance(value["split"], str) and len(value["split"]) <= 40, where, "split", value["split"], "a name")
        split = split_name(value["split"])
    one = Asked(messages, split, _tags(value, where), answers)
    if "ranking" in value or "ranks" in value:
        one.rankings.append(_said(value, answers, where))
    return one


def _check_keys(value: Mapping[str, Any], where: str) -> None:
    """Raises UserError for what would be dropped: short plain fields are tags, but for those that change the row."""
    unused = row_keys.unused(value, (*_READ, *CONTEXT, "flags", "tags", "models", "checkpoints"), "comparisons")
    tags = tags_of(value, tuple(row_keys.CHANGES))
    if lost := [key for key in unused if key not in tags]:
        raise UserError(
            f"{where}: '{lost[0]}' would be dropped: {row_keys.CHANGES.get(lost[0], 'no tag')}; take it out"
        )


def _answers(value: Mapping[str, Any], where: str) -> dict[str, Answer]:
    """Those that are ranked, in order, then those that were left unranked."""
    listed = value["completions"]
    _need(isinstance(listed, list) and len(listed) >= 2, where, "completions", listed, "a list of 2 or more texts")
    texts = [completion_text(one, f"completions[{n}]", where) for n, one in enumerate(listed)]
    models = _column(value, "models", len(texts), str, str(value.get("model") or ""), where)
    checkpoints = _column(value, "checkpoints", len(texts), str, "", where)
    positions = _column(value, "positions", len(texts), int, None, where)
    told = [Answer(*one) for one in zip(models, checkpoints, positions, strict=True)]
    for n, one in enumerate(_unranked(value, where)):
        texts.append(completion_text(one.get("completion"), f"unranked[{n}].completion", where))
        given = [(key, one.get(key)) for key in ("model", "checkpoint", "position")]
        for key, found in given:
            fits = found is None or isinstance(found, int if key == "position" else str)
            _need(fits, where, f"unranked[{n}].{key}", found, "a whole number" if key == "position" else "a text")
        told.append(Answer(given[0][1] or "", given[1][1] or "", given[2][1]))
    if len(set(texts)) < len(texts):
        raise UserError(f"{where}: two completions are the same; each text once")
    if len(texts) > MOST_CANDIDATES:
        raise UserError(f"{where}: {len(texts)} completions; at most {MOST_CANDIDATES} can be ranked")
    for key in ("model", "checkpoint"):
        for said in (getattr(answer, key) for answer in told):
            problem = unstorable(said, 128 if key == "checkpoint" else None)
            _need(problem is None, where, key, said, f"a text that can be kept (it {problem})")
    return dict(zip(texts, told, strict=True))


def _said(value: Mapping[str, Any], answers: Mapping[str, Answer], where: str) -> Said:
    ranks = ranking(value, where).ranks  # raises for what is no ranking
    left = _unranked(value, where)
    keys = [f"completions[{n}]" for n in range(len(ranks))] + [f"unranked[{n}]" for n in range(len(left))]
    texts = dict(zip(keys, answers, strict=True))
    ratings = _column(value, "ratings", len(ranks), dict, {}, where) + [one.get("ratings") for one in left]
    notes = _column(value, "notes", len(ranks), str, "", where) + [one.get("note") for one in left]
    content = {
        "ranks": dict(zip(keys, ranks, strict=False)),
        "all_bad": value.get("all_bad") or False,
        "comment": value.get("comment") or "",
        "seconds": value.get("seconds") or 0.0,
        "ratings": {key: one for key, one in zip(keys, ratings, strict=True) if one},
        "notes": {key: one for key, one in zip(keys, notes, strict=True) if one},
        "flags": _flags(value, left, keys, where),
    }
    try:
        judgement = checked(judgement_json.read(content), texts, ProjectSettings(), submit=True)
    except Invalid as error:
        raise UserError(f"{where}: {error}") from None
    who, _, simulated = who_said(value, where)
    problem = unstorable(who, LONGEST_PSEUDONYM)
    _need(problem is None, where, "annotator", who, f"a pseudonym that can be kept (it {problem})")
    return Said(where, who or "imported", simulated, _time(value, where), judgement, texts, _positions(answers))


def _flags(value: Mapping[str, Any], left: Sequence[Mapping[str, Any]], keys: Sequence[str], where: str) -> list[Any]:
    """Of all answers as ``judgement_json`` reads them."""
    found, ranked = [], len(keys) - len(left)
    for flag in _list(value, "flags", where):
        place = flag.get("completion") if isinstance(flag, Mapping) else None
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < ranked:
            raise UserError(
                f"{where}: a flag is {_plain(flag)}; completion (its place, from 0), kind and severity are needed"
            )
        found.append({"key": keys[place], **{key: one for key, one in flag.items() if key != "completion"}})
    for key, answer in zip(keys[ranked:], left, strict=True):
        for flag in _list(answer, "flags", where):
            _need(isinstance(flag, Mapping), where, f"{key}.flags", flag, "objects with kind and severity")
            found.append({"key": key, **flag})
    return found


def _positions(answers: Mapping[str, Answer]) -> dict[str, int]:
    known = {text: one.position for text, one in answers.items() if one.position is not None}
    return known if sorted(known.values()) == list(range(1, len(answers) + 1)) else {}


def _unranked(value: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    found = _list(value, "unranked", where)
    for one in found:
        _need(isinstance(one, Mapping) and "completion" in one, where, "unranked", one, "objects with completion")
    return found


def _tags(value: Mapping[str, Any], where: str) -> dict[str, str]:
    given = value.get("tags") or {}
    _need(isinstance(given, Mapping), where, "tags", given, "an object of names and texts")
    tags = tags_of(value, (*_READ, *CONTEXT)) | {str(key): str(one) for key, one in given.items()}
    for key, text in tags.items():
        problem = unstorable(key) or unstorable(text)
        _need(problem is None, where, f"tags.{key}", text, f"a text that can be kept (it {problem})")
    return tags


def _time(value: Mapping[str, Any], where: str) -> float | None:
    given = value.get("submitted_at")
    if given is None:
        return None
    try:
        return datetime.fromisoformat(given).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        raise UserError(f"{where}: 'submitted_at' is {_plain(given)}; a time as 2026-01-31T12:00:00+00:00") from None


def _column(value: Mapping[str, Any], key: str, count: int, kind: type, default: Any, where: str) -> list[Any]:
    """One value for each completion; ``default`` for all where the row has none, and in place of null."""
    given = _list(value, key, where) or [default] * count
    fits = len(given) == count and all(
        one is None or (isinstance(one, kind) and not isinstance(one, bool)) for one in given
    )
    wanted = {str: "texts", int: "whole numbers", dict: "objects"}[kind]
    _need(fits, where, key, given, f"a list of {count} {wanted} or null, one for each completion")
    return [default if one is None else one for one in given]


def _list(value: Mapping[str, Any], key: str, where: str) -> list[Any]:
    given = value.get(key)
    _need(given is None or isinstance(given, list), where, key, given, "a list")
    return given or []


def _need(holds: bool, where: str, key: str, value: Any, wanted: str) -> None:
    if not holds:
        raise UserError(f"{where}: '{key}' is {_plain(value)}; must be {wanted}")


def _plain(value: Any) -> str:
    return json.dumps(value, default=str)[:80]
