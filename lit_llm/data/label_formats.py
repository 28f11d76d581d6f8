"""Good or bad, one completion at a time: labelled rows, and the labels that a ranking or its flags stand for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lit_llm.data.conversations import CONTEXT, check_order, in_context, messages_of, prompt_of, text_of, untrained
from lit_llm.data.file_rows import Row
from lit_llm.data.options import SEVERITIES
from lit_llm.data.preference_formats import chosen_and_rejected, completion_text, judged, ranking, tags_of, who_said
from lit_llm.data.row_errors import RowError
from lit_llm.data.row_keys import empty as says_nothing
from lit_llm.data.row_keys import refusal
from lit_llm.data.tool_messages import TOOLS, as_row
from lit_llm.records import Labelled, Message
from lit_llm.runtime.counted import counted

_OF_RANKINGS = ("completions", "ranking", "ranks", "chosen", "rejected", "margin", "all_bad")
"""What says who is better another way than a row's own label does."""


def labelled(value: Mapping[str, Any], where: str) -> Labelled:
    """``prompt``, ``completion`` (texts or messages), ``label``: true for a good completion, false for a bad one."""
    prompt = prompt_of(value["prompt"], "prompt", where)
    completion = value["completion"]
    if isinstance(completion, str):
        text = text_of(completion, "completion", where)
    else:
        answer = messages_of(completion, "completion", where)
        text = judged(check_order([*prompt, *answer], "assistant", where)[-1], "completion", where)
        if len(answer) > 1:
            turns = counted(len(answer), "turn")
            raise RowError("wrong_type", f"{where}: 'completion' has {turns}; the assistant's alone is judged")
    return _labelled(prompt, text, value, ("prompt", "completion"), where)


def labelled_messages(value: Mapping[str, Any], where: str) -> Labelled:
    """``messages`` (or ``conversations``) that end with the assistant's turn, and its ``label``."""
    key = "messages" if "messages" in value else "conversations"
    whole = check_order(messages_of(value[key], key, where), "assistant", where)
    text = judged(whole[-1], f"{key}[{len(whole) - 1}]", where)
    if len(whole) < 2:
        raise RowError("missing_field", f"{where}: '{key}' has no turn before the answer; the user's is needed")
    return _labelled(whole[:-1], text, value, (key,), where)


def _labelled(
    prompt: Sequence[Message], text: str, value: Mapping[str, Any], read: tuple[str, ...], where: str
) -> Labelled:
    label = value["label"]
    if not isinstance(label, bool):
        raise RowError("wrong_type", f"{where}: 'label' is {str(label)[:30]!r}; true (good) or false (bad) is needed")
    prompt = check_order(untrained(in_context(value, prompt, where)), "user", where)
    who, weight, simulated = who_said(value, where)
    known = (*read, *CONTEXT, "label", "weight", "simulated", "annotator", "annotator_id")
    return Labelled(prompt, text, label, who, weight, simulated, where, tags_of(value, known))


@dataclass(frozen=True)
class LabelsOfRankings:
    """Makes labelled rows of a ranking, one for each completion; a row that has a label stays what it is.

    Args:
        label: ``desirable``: the best rank is good, the worst bad, all bad when the annotator said so, and what is
            between them gets no label. ``flagged``: the label is whether the completion was flagged.
        flag_kinds: the kinds of flag that count; None counts every kind.
        min_severity: the least severity that counts, 1 to 3.
    """

    label: Literal["desirable", "flagged"] = "desirable"
    flag_kinds: Collection[str] | None = None
    min_severity: int = 1

    def __call__(self, row: Row) -> Iterator[Row | RowError]:
        value = row.value
        if not isinstance(value, str) and "label" in value:
            others = [key for key in _OF_RANKINGS if not says_nothing(value.get(key))]
            yield refusal(others, ("prompt", "completion", "label"), row.where) if others else row
            return
        if isinstance(value, str) or not ("completions" in value or "chosen" in value):
            yield row
            return
        value = _ranking_of(value, row.where)
        labels = self._flagged(value, row.where) if self.label == "flagged" else _desirable(value, row.where)
        for completion, label in zip(value["completions"], labels, strict=True):
            if label is None:
                yield RowError("unlabelled", f"{row.where}: ranked between the best and the worst")
            else:
                yield replace(row, value={**value, "completion": completion, "label": label})

    def _flagged(self, value: Mapping[str, Any], where: str) -> list[bool | None]:
        count, found = len(value["completions"]), set()
        for flag in value.get("flags") or ():
            at, kind, severity = _flag(flag, count, where)
            if severity >= self.min_severity and (self.flag_kinds is None or kind in self.flag_kinds):
                found.add(at)
        return [at in found for at in range(count)]


def _ranking_of(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row with its completions as texts; a pair is a ranking of two."""
    if "completions" not in value:
        pair = chosen_and_rejected(value, where)
        prompt = [as_row(message) for message in pair.prompt if message.role != "tools"]
        rest = {k: one for k, one in value.items() if k not in CONTEXT or k in TOOLS}  # which the prompt has by now
        return {**rest, "prompt": prompt, "completions": list(pair.completions), "ranking": list(pair.ranks)}
    listed = value["completions"]
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise RowError("wrong_type", f"{where}: 'completions' is {str(listed)[:30]}; a list of texts is needed")
    return {**value, "completions": [completion_text(one, f"completions[{n}]", where) for n, one in enumerate(listed)]}


def _desirable(value: Mapping[str, Any], where: str) -> list[bool | None]:
    """The best is good and the worst bad; where all are tied the ranking says neither."""
    all_bad = value.get("all_bad", False)
    if not isinstance(all_bad, bool):
        raise RowError("wrong_type", f"{where}: 'all_bad' is {str(all_bad)[:30]}; true or false is needed")
    if all_bad:
        return [False] * len(value["completions"])
    ranks = ranking(value, where).ranks
    best, worst = min(ranks), max(ranks)
    return [None if best == worst or best < rank < worst else rank == best for rank in ranks]


def _flag(flag: Any, count: int, where: str) -> tuple[int, str, int]:
    """(which completion, kind, severity) of one flag."""
    if not isinstance(flag, Mapping) or not isinstance(flag.get("kind"), str):
        raise RowError("wrong_type", f"{where}: a flag is {str(flag)[:60]}; completion, kind and severity are needed")
    at, severity = flag.get("completion"), flag.get("severity", 1)
    if type(at) is not int or not 0 <= at < count:
        raise RowError(
            "wrong_type", f"{where}: a flag is of completion {str(at)[:20]}; a number below {count} is needed"
        )
    if type(severity) is not int or severity not in SEVERITIES:
        raise RowError("wrong_type", f"{where}: a flag's severity is {str(severity)[:20]}; 1, 2 or 3 is needed")
    return at, flag["kind"], severity
