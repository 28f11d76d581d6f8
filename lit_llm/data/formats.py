"""A row to a record: one small function per format, chosen by the row's keys or by name.

A further format is a function of your own, ``data.format=my_package.my_function``: it takes the row's dict and gives a
Document, Example, Comparison, Labelled or Prompt, or None to leave the row out.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lit_llm.data import preference_formats as preferences
from lit_llm.data import row_keys
from lit_llm.data.conversations import (
    CONTEXT,
    TRAINED,
    check_order,
    in_context,
    messages_of,
    prompt_of,
    text_of,
    trained_of,
    untrained,
)
from lit_llm.data.file_rows import Row
from lit_llm.data.filters import Record
from lit_llm.data.label_formats import labelled, labelled_messages
from lit_llm.data.preference_formats import tags_of
from lit_llm.data.problem_formats import ANSWERS, ASKED, problem
from lit_llm.data.row_errors import RowError
from lit_llm.data.unfit_rows import OfFormat, no_rows, unfit
from lit_llm.errors import UserError
from lit_llm.records import Comparison, Document, Example, Labelled, Message, Prompt
from lit_llm.runtime.counted import counted
from lit_llm.runtime.suggestions import nearest

Kind = Literal["texts", "examples", "comparisons", "labels", "prompts"]
Parse = Callable[[Mapping[str, Any], str], Record]
_RECORDS: dict[str, type] = {
    "texts": Document,
    "examples": Example,
    "comparisons": Comparison,
    "labels": Labelled,
    "prompts": Prompt,
}


def text(value: Mapping[str, Any], where: str) -> Document:
    """``text``, and perhaps ``source``: what it is a part of, as a module or a book."""
    found = text_of(value["text"], "text", where, empty=True)
    of = value.get("source")
    return Document(found, where, {"source": of} if isinstance(of, str) and 0 < len(of) <= 200 else {})


def messages(value: Mapping[str, Any], where: str) -> Example:
    """``messages``: a list of {role, content}, each perhaps with ``weight``, ``train`` or ``loss`` (0: not trained)."""
    return _example(messages_of(value["messages"], "messages", where), value, ("messages",), where)


def sharegpt(value: Mapping[str, Any], where: str) -> Example:
    """``conversations``: a list of {from, value}, each perhaps with ``weight``, and perhaps ``system``."""
    return _example(messages_of(value["conversations"], "conversations", where), value, ("conversations",), where)


def alpaca(value: Mapping[str, Any], where: str) -> Example:
    """``instruction``, perhaps ``input``, ``output``; perhaps ``system``, and ``history``: [user, assistant] each."""
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
    return _example([Message("user", source), Message("assistant", target)], value, read, where)


def _example(found: list[Message], value: Mapping[str, Any], read: tuple[str, ...], where: str) -> Example:
    """The conversation with the row's own system message, history and weight."""
    found = in_context(value, found, where)
    if trained_of(value, "", where) is False:
        found = [replace(one, trained=False) if one.role == "assistant" else one for one in found]
    return Example(check_order(found, "assistant", where), where, tags_of(value, (*read, *CONTEXT, *TRAINED)))


def prompt_completion(value: Mapping[str, Any], where: str) -> Example:
    """``prompt``, ``completion``: texts, or lists of messages."""
    told = prompt_of(value["prompt"], "prompt", where, masks=True)
    answer = value["completion"]
    if isinstance(answer, str):
        answer = [Message("assistant", text_of(answer, "completion", where))]
    else:
        answer = messages_of(answer, "completion", where)
    return _example([*told, *answer], value, ("prompt", "completion"), where)


_PROMPT_KEYS = ("messages", "conversations", "instruction", "prompt", "question", "source")
_ANSWER_KEYS = ("answer", "output", "completion", "target", "completions", "chosen", "rejected", "ranking")


def prompt(value: Mapping[str, Any], where: str) -> Prompt:
    """``prompt``, ``messages``, ``conversations``, ``question``, ``instruction``, ``source``; answers are left out."""
    tags = tags_of(value, (*_PROMPT_KEYS, "input", *_ANSWER_KEYS, *CONTEXT))
    key = _asked_by(value)
    if key in ("messages", "conversations"):
        found = untrained(messages_of(value[key], key, where))
        found = found[:-1] if found[-1].role == "assistant" else found
    elif key == "instruction":
        found = [Message("user", _instruction(value, where))]
    else:
        found = list(prompt_of(value[key], key, where))
    return Prompt(check_order(untrained(in_context(value, found, where)), "user", where), where, tags)


def _asked_by(value: Mapping[str, Any]) -> str:
    found = next((key for key in _PROMPT_KEYS if key in value), None)
    if found is None:
        raise KeyError("prompt")
    return found


def _read_of_prompt(value: Mapping[str, Any]) -> tuple[str, ...]:
    asked = _asked_by(value)
    return (asked, *(("input",) if asked == "instruction" else ()), *_ANSWER_KEYS, *CONTEXT)


def _read_of_problem(value: Mapping[str, Any]) -> tuple[str, ...]:
    return (next(key for key in ASKED if key in value), *ANSWERS, *_ANSWER_KEYS, *CONTEXT)


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
    more: tuple[str, ...] = ()  # keys that it reads besides, where a row has them
    read_of: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None  # where that depends on the row

    def fits(self, value: Mapping[str, Any]) -> int:
        """How many of the row's keys say that it is of this format; 0 where it is not."""
        return max(len(keys) if all(k in value for k in keys) else 0 for keys in self.keys)

    def read(self, value: Mapping[str, Any]) -> Collection[str]:
        """The keys that it reads of a row."""
        return self.read_of(value) if self.read_of else (*(k for keys in self.keys for k in keys), *self.more)


_OF_EXAMPLES = (*CONTEXT, *TRAINED)
_JUDGED = (*CONTEXT, "annotator", "annotator_id", "weight", "simulated")
_OF_COMPARISONS = (*_JUDGED, "margin", "flags", "all_bad")
_OF_LABELS = (*_OF_COMPARISONS, "completions", "ranking", "ranks", "chosen", "rejected")
FORMATS = (
    Format("text", "texts", (("text",),), text, ("source",)),
    Format("messages", "examples", (("messages",),), messages, _OF_EXAMPLES),
    Format("sharegpt", "examples", (("conversations",),), sharegpt, _OF_EXAMPLES),
    Format("alpaca", "examples", (("instruction", "output"),), alpaca, ("input", *_OF_EXAMPLES)),
    Format("source_target", "examples", (("source", "target"),), source_target, _OF_EXAMPLES),
    Format("prompt_completion", "examples", (("prompt", "completion"),), prompt_completion, _OF_EXAMPLES),
    Format("question_answer", "examples", (("question", "answer"),), question_answer, _OF_EXAMPLES),
    Format(
        "ranking",
        "comparisons",
        tuple(("prompt", "completions", r) for r in ("ranking", "ranks")),
        preferences.ranking,
        _OF_COMPARISONS,
    ),
    Format(
        "chosen_rejected",
        "comparisons",
        (("chosen", "rejected"),),
        preferences.chosen_and_rejected,
        ("prompt", *_OF_COMPARISONS),
    ),
    Format(
        "preference_pair",
        "comparisons",
        (("prompt", "chosen", "rejected"),),
        preferences.preference_pair,
        _OF_COMPARISONS,
    ),
    Format("hh_transcript", "comparisons", (("chosen", "rejected"),), preferences.hh_transcript, _OF_COMPARISONS),
    Format("labelled", "labels", (("prompt", "completion", "label"),), labelled, _OF_LABELS),
    Format(
        "labelled_messages",
        "labels",
        (("messages", "label"), ("conversations", "label")),
        labelled_messages,
        _JUDGED,
    ),
    Format("problem", "prompts", tuple((k, a) for k in ASKED for a in ANSWERS), problem, read_of=_read_of_problem),
    Format("prompt", "prompts", tuple((k,) for k in _PROMPT_KEYS), prompt, read_of=_read_of_prompt),
    Format(
        "prompt_of_comparison",
        "prompts",
        (("chosen", "rejected"),),
        prompt_of_comparison,
        ("prompt", *_OF_COMPARISONS),
    ),
)


_KEYS = [OfFormat(form.name, form.kind, form.keys) for form in FORMATS]


def no_rows_among(files: Sequence[str], kind: Kind) -> str:
    """What is said of texts and documents alone, where rows are needed."""
    return no_rows(counted(len(files), "text"), kind, _KEYS) + f"; the first: {files[0]}"


def parse_row(
    row: Row,
    kind: Kind,
    parse: Format | Parse | None = None,
    ignore_keys: Collection[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> Record | None:
    """One row as a record of a kind.

    Args:
        parse: what ``find_format`` gave, or None to choose by the row's keys.
        ignore_keys: keys that the row is read without, at every depth. A short value of one stays a tag.
        renamed: ``data.columns``, by which its keys have their names.

    Returns:
        The record, or None where a function of the user's left the row out.

    Raises:
        RowError: with file, line, keys found, and what would be right. So for a key that would be dropped
            (``row_keys.py``); a user's own function reads what it likes.
    """
    value = {"text": row.value} if isinstance(row.value, str) else row.value
    where, ignored = row.where, {key: value[key] for key in ignore_keys if key in value}
    try:
        value = row_keys.without(value, ignore_keys) if ignore_keys else value
        if isinstance(row.value, str) and kind != "texts" and (parse is None or isinstance(parse, Format)):
            raise RowError("no_row", f"{where}: {no_rows('a text', kind, _KEYS)}")
        chosen = parse or _detect(value, kind, where, renamed or {})
        if not isinstance(chosen, Format):
            return chosen(value, where)
        record = _parsed(chosen, value, where)
    except KeyError as error:  # a format chosen by name whose key the row lacks
        raise unfit(value, kind, where, f"'{error.args[0]}' is missing", _KEYS, renamed or {}) from None
    except RecursionError:
        raise RowError("too_deep", f"{where}: nested too deep; flat fields are needed") from None
    return replace(record, tags=record.tags | tags_of(ignored, CONTEXT)) if ignored else record


def _parsed(form: Format, value: Mapping[str, Any], where: str) -> Record:
    read = form.read(value)
    unused = row_keys.unused(value, read, form.kind)
    if unused and not row_keys.CHANGES.keys().isdisjoint(unused):
        raise _refusal(unused, read, form.kind, where)
    record = form.parse(value, where)
    unused = [key for key in unused if not _said_again(key, value[key], record, where)]
    if unused:
        raise _refusal(unused, read, form.kind, where)
    return record


def _refusal(unused: list[str], read: Collection[str], kind: Kind, where: str) -> RowError:
    error = row_keys.refusal(unused[:8], read, where)
    if kind == "examples" and "label" in unused:
        return RowError("labelled", f"{error} (KTO)")
    return error


def _said_again(key: str, value: Any, record: Record, where: str) -> bool:
    """Whether a value holds nothing that the record does not: a turn's text, turns, or (``text``) all of them.

    What equals one of several answers, or one that is good or bad, says which is better: that is no repetition.
    """
    said = [(role, text.strip()) for role, text in _said(record)]
    if isinstance(value, str):
        judged = isinstance(record, Comparison | Labelled)
        texts = [text for role, text in said if not (judged and role == "assistant")]
        return value.strip() in texts or (key == "text" and _renders(value, [text for _, text in said]))
    try:
        turns = messages_of(value, "", where)
    except RowError:
        return False
    if not all(turn.plain for turn in turns):
        return isinstance(record, Example | Prompt) and all(turn in record.messages for turn in turns)
    return all(turn.trained and (turn.role, turn.content.strip()) in said for turn in turns)


_ALPACA = re.compile(r"\s*Below is an instruction[^\n]*")
_MARKS = re.compile(  # no character can be read two ways, so that a long text of such words is refused at once
    r"(?:<[|\w/｜▁\s-]{1,40}>|\[/?[A-Z_]{1,20}\]|[\s:#*=-]"
    r"|\b(?:system|user|human|assistant|gpt|bot|model|prompter|instruction|input|response|question|answer|output|[QA])\b)*",
    re.IGNORECASE,
)
"""What a template writes between two turns: marks in brackets, and the names of who speaks."""


def _renders(text: str, turns: Sequence[str]) -> bool:
    """Whether a text is the turns in their order and a template's marks: more than those would be dropped."""
    rest = _ALPACA.sub("", text)
    for part in (part.strip() for turn in turns for part in turn.split("\n\n") if part.strip()):
        before, found, rest = rest.partition(part)
        if not found or not _MARKS.fullmatch(before):
            return False
    return bool(_MARKS.fullmatch(rest))


def _said(record: Record) -> Iterator[tuple[str, str]]:
    """(role, text) of everything that a record holds."""
    if isinstance(record, Document):
        yield "", record.text
        return
    for message in record.messages if isinstance(record, Example | Prompt) else record.prompt:
        yield message.role, message.content
    if isinstance(record, Comparison):
        for completion, rank in zip(record.completions, record.ranks, strict=True):
            if rank == 1:  # turns with another's answer would say that it is the better one
                yield "assistant", completion
    if isinstance(record, Labelled):
        yield "assistant", record.completion


def _detect(value: Mapping[str, Any], kind: Kind, where: str, renamed: Mapping[str, str]) -> Format:
    for candidate in FORMATS:
        if candidate.kind == kind and candidate.fits(value):
            return candidate
    raise unfit(value, kind, where, "no known format", _KEYS, renamed)


def find_format(name: str | None, kind: Kind) -> Format | Parse | None:
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
    return mine[name]


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
