"""A row to a record: one small function per format, chosen by the row's keys or by name.

A further format is a function of your own, ``data.format=my_package.my_function``: it takes the row's dict and gives a
Document, Example, Comparison, Labelled or Prompt, or None to leave the row out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lit_llm.data import preference_formats as preferences
from lit_llm.data.conversations import check_order, messages_of, prompt_of, text_of
from lit_llm.data.filters import Record
from lit_llm.data.label_formats import labelled
from lit_llm.data.preference_formats import tags_of
from lit_llm.data.problem_formats import ANSWERS, ASKED, problem
from lit_llm.data.sources import Row
from lit_llm.data.streams import RowError
from lit_llm.data.suggestions import nearest
from lit_llm.errors import UserError
from lit_llm.records import Comparison, Document, Example, Labelled, Message, Prompt

Kind = Literal["texts", "examples", "comparisons", "labels", "prompts"]
Parse = Callable[[Mapping[str, Any], str], Record]
_RECORDS: dict[str, type] = {
    "texts": Document,
    "examples": Example,
    "comparisons": Comparison,
    "labels": Labelled,
    "prompts": Prompt,
}
_USED_BY = {
    "texts": "data=raw_text",
    "examples": "data=task_pairs or data=instructions",
    "comparisons": "data=preferences",
    "labels": "data=labelled_answers",
    "prompts": "data=prompts",
}


def text(value: Mapping[str, Any], where: str) -> Document:
    """``text``, and perhaps ``source``: what it is a part of, as a module or a book."""
    found = text_of(value["text"], "text", where, empty=True)
    of = value.get("source")
    return Document(found, where, {"source": of} if isinstance(of, str) and 0 < len(of) <= 200 else {})


def messages(value: Mapping[str, Any], where: str) -> Example:
    """``messages``: a list of {role, content}."""
    found = check_order(messages_of(value["messages"], "messages", where), "assistant", where)
    return Example(found, where, tags_of(value, ("messages",)))


def sharegpt(value: Mapping[str, Any], where: str) -> Example:
    """``conversations``: a list of {from, value}, and perhaps ``system``."""
    found = messages_of(value["conversations"], "conversations", where)
    if value.get("system"):
        found = [Message("system", text_of(value["system"], "system", where)), *found]
    return Example(check_order(found, "assistant", where), where, tags_of(value, ("conversations", "system")))


def alpaca(value: Mapping[str, Any], where: str) -> Example:
    """``instruction``, perhaps ``input``, ``output``."""
    source = _instruction(value, where)
    return _pair(source, text_of(value["output"], "output", where), value, ("instruction", "input", "output"), where)


def _instruction(value: Mapping[str, Any], where: str) -> str:
    told = text_of(value["instruction"], "instruction", where)
    given = value.get("input")
    given = "" if given is None else text_of(given, "input", where, empty=True)
    return f"{told}\n\n{given}" if given.strip() else told


def source_target(value: Mapping[str, Any], where: str) -> Example:
    """``source``, ``target``."""
    return _two("source", "target", value, where)


def question_answer(value: Mapping[str, Any], where: str) -> Example:
    """``question``, ``answer``."""
    return _two("question", "answer", value, where)


def _two(source: str, target: str, value: Mapping[str, Any], where: str) -> Example:
    texts = text_of(value[source], source, where), text_of(value[target], target, where)
    return _pair(*texts, value, (source, target), where)


def _pair(source: str, target: str, value: Mapping[str, Any], read: tuple[str, ...], where: str) -> Example:
    return Example((Message("user", source), Message("assistant", target)), where, tags_of(value, read))


def prompt_completion(value: Mapping[str, Any], where: str) -> Example:
    """``prompt``, ``completion``: texts, or lists of messages."""
    if isinstance(value.get("label"), bool):
        raise RowError("labelled", f"{where}: 'label' says good or bad (KTO); examples to imitate have no 'label'")
    told = prompt_of(value["prompt"], "prompt", where)
    answer = value["completion"]
    if isinstance(answer, str):
        answer = [Message("assistant", text_of(answer, "completion", where))]
    else:
        answer = messages_of(answer, "completion", where)
    whole = check_order([*told, *answer], "assistant", where)
    return Example(whole, where, tags_of(value, ("prompt", "completion")))


def prompt(value: Mapping[str, Any], where: str) -> Prompt:
    """``prompt``, ``messages``, ``conversations``, ``question``, ``instruction``, ``source``; answers are left out."""
    read = ("prompt", "messages", "conversations", "question", "answer", "instruction", "input", "output", "completion")
    tags = tags_of(value, (*read, "source", "target", "completions", "chosen", "rejected", "ranking"))
    for key in ("messages", "conversations"):
        if key in value:
            found = messages_of(value[key], key, where)
            found = found[:-1] if found[-1].role == "assistant" else found
            return Prompt(check_order(found, "user", where), where, tags)
    if "instruction" in value:
        return Prompt((Message("user", _instruction(value, where)),), where, tags)
    key = next(k for k in ("prompt", "question", "source") if k in value)
    return Prompt(prompt_of(value[key], key, where), where, tags)


def prompt_of_comparison(value: Mapping[str, Any], where: str) -> Prompt:
    """``chosen``, ``rejected`` with an implicit prompt: the prompt alone."""
    found = preferences.chosen_and_rejected(value, where)
    return Prompt(found.prompt, where, found.tags)


@dataclass(frozen=True)
class Format:
    name: str
    kind: Kind
    keys: tuple[tuple[str, ...], ...]  # all of one of these
    parse: Parse

    def fits(self, value: Mapping[str, Any]) -> bool:
        return any(all(k in value for k in keys) for keys in self.keys)


_PROMPT_KEYS = ("prompt", "messages", "conversations", "question", "instruction", "source")
FORMATS = (
    Format("text", "texts", (("text",),), text),
    Format("messages", "examples", (("messages",),), messages),
    Format("sharegpt", "examples", (("conversations",),), sharegpt),
    Format("alpaca", "examples", (("instruction", "output"),), alpaca),
    Format("source_target", "examples", (("source", "target"),), source_target),
    Format("prompt_completion", "examples", (("prompt", "completion"),), prompt_completion),
    Format("question_answer", "examples", (("question", "answer"),), question_answer),
    Format(
        "ranking", "comparisons", tuple(("prompt", "completions", r) for r in ("ranking", "ranks")), preferences.ranking
    ),
    Format("chosen_rejected", "comparisons", (("chosen", "rejected"),), preferences.chosen_and_rejected),
    Format("preference_pair", "comparisons", (("prompt", "chosen", "rejected"),), preferences.preference_pair),
    Format("hh_transcript", "comparisons", (("chosen", "rejected"),), preferences.hh_transcript),
    Format("labelled", "labels", (("prompt", "completion", "label"),), labelled),
    Format("problem", "prompts", tuple((k, a) for k in ASKED for a in ANSWERS), problem),
    Format("prompt", "prompts", tuple((k,) for k in _PROMPT_KEYS), prompt),
    Format("prompt_of_comparison", "prompts", (("chosen", "rejected"),), prompt_of_comparison),
)


def parse_row(row: Row, kind: Kind, parse: Parse | None = None) -> Record | None:
    """One row as a record of a kind.

    Args:
        parse: what ``find_format`` gave, or None to choose by the row's keys.

    Returns:
        The record, or None where a function of the user's left the row out.

    Raises:
        RowError: with file, line, keys found, and what would be right.
    """
    value = {"text": row.value} if isinstance(row.value, str) else row.value
    where = row.where
    chosen = parse or _detect(value, kind, where)
    try:
        return chosen(value, where)
    except KeyError as error:  # a format chosen by name whose key the row lacks
        raise _unfit(value, kind, where, f"'{error.args[0]}' is missing") from None
    except RecursionError:
        raise RowError("too_deep", f"{where}: nested too deep; flat fields are needed") from None


def _detect(value: Mapping[str, Any], kind: Kind, where: str) -> Parse:
    for candidate in FORMATS:
        if candidate.kind == kind and candidate.fits(value):
            return candidate.parse
    raise _unfit(value, kind, where, "no known format")


def _unfit(value: Mapping[str, Any], kind: Kind, where: str, what: str) -> RowError:
    """Keys found, formats accepted, the nearest match, and the kind of data that these keys are."""
    mine = [f for f in FORMATS if f.kind == kind]
    accepted = "; ".join(dict.fromkeys(" + ".join(keys) for f in mine for keys in f.keys))
    wanted = list(dict.fromkeys(k for f in mine for keys in f.keys for k in keys))
    near = [(k, nearest(str(k), wanted)) for k in value if k not in wanted]
    hint = "".join(f"; did you mean '{n}' for '{str(k)[:40]}'?" for k, n in near[:8] if n and n not in value)
    other = next((f.kind for f in FORMATS if f.kind != kind and f.fits(value)), None)
    if not hint and other:
        hint = f"; this is for {_USED_BY[other]}"
    keys = ", ".join(str(k)[:40] for k in list(value)[:12]) or "none"
    return RowError("unknown_format", f"{where}: {what}; keys found: {keys}; accepted: {accepted}{hint}")


def find_format(name: str | None, kind: Kind) -> Parse | None:
    """A format by name, or a user's function by its dotted path; None stays None (chosen by keys).

    Raises:
        UserError: the name is unknown, or there is no such function.
    """
    if name is None:
        return None
    if "." in name:
        return _users_function(name, kind)
    mine = {f.name: f for f in FORMATS if f.kind == kind}
    if name not in mine:
        near = nearest(name, mine)
        hint = f"; did you mean {near}?" if near else ""
        raise UserError(f"data.format={name}: unknown for {kind}; {', '.join(mine)} or a function's dotted path{hint}")
    return mine[name].parse


def _users_function(path: str, kind: Kind) -> Parse:
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"data.format={path}: {' '.join(str(error).split())}; give module.function") from None
    if not callable(function):
        raise UserError(f"data.format={path}: a {type(function).__name__}; give a function")

    def parse(value: Mapping[str, Any], where: str) -> Any:
        try:
            record = function(dict(value))
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise RowError("format_failed", f"{where}: {path} failed ({what})") from error
        if record is not None and not isinstance(record, _RECORDS[kind]):
            got, right = type(record).__name__, _RECORDS[kind].__name__
            raise RowError("format_failed", f"{where}: {path} gave a {got}; a {right} or None is needed")
        if isinstance(record, Document | Example | Comparison | Labelled | Prompt) and not record.source:
            record = replace(record, source=where)
        return record

    return parse
