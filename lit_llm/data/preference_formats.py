"""Comparisons: chosen and rejected, rankings of K completions, HH transcripts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lit_llm.data.conversations import (
    CONTEXT,
    check_order,
    in_context,
    messages_of,
    prompt_of,
    text_of,
    transcript,
    untrained,
)
from lit_llm.data.row_errors import RowError
from lit_llm.data.row_keys import check_part
from lit_llm.records import Comparison, Message

_SCORES = ("score", "scores", "rating", "ratings", "avg_rating", "gold", "rank")
"""What public pairs call what was given to each of the two answers."""
_SCORES_OF_PAIRS = [
    (name, *(form.format(side=side, name=name) for side in ("chosen", "rejected")))
    for name in _SCORES
    for form in ("{side}-{name}", "{side}_{name}", "{name}_{side}", "{name}.{side}")
]
"""(name, key of the chosen answer's, key of the rejected one's)."""


def preference_pair(value: Mapping[str, Any], where: str) -> Comparison:
    """``prompt`` (or none: the common beginning of both), ``chosen``, ``rejected``; texts or message lists."""
    prompt = prompt_of(value["prompt"], "prompt", where) if value.get("prompt") is not None else None
    chosen = _side(value["chosen"], "chosen", prompt, where)
    rejected = _side(value["rejected"], "rejected", prompt, where)
    return _pair(chosen, rejected, value, where)


def _side(value: Any, key: str, prompt: tuple[Message, ...] | None, where: str) -> tuple[tuple[Message, ...], str]:
    """(prompt, completion) of one side."""
    if isinstance(value, str):
        if prompt is None:
            raise RowError("missing_field", f"{where}: '{key}' is a text and there is no 'prompt'; add 'prompt'")
        return prompt, text_of(value, key, where)
    messages = messages_of(value, key, where)
    if prompt is not None and len(messages) == 1:
        messages = [*prompt, *messages]
    whole = check_order(messages, "assistant", where)
    text = judged(whole[-1], key, where)
    whole = (*untrained(whole[:-1]), whole[-1])
    if prompt is not None and whole[:-1] != prompt:
        raise RowError("prompts_differ", f"{where}: the turns of '{key}' before its last are not the 'prompt'")
    if len(whole) < 2:
        raise RowError(
            "missing_field", f"{where}: '{key}' has no turn before the answer; add 'prompt' or the user's turn"
        )
    return whole[:-1], text


def judged(answer: Message, key: str, where: str) -> str:
    """The text of an answer that is judged. Raises RowError for one that is not to be trained."""
    if answer.role != "assistant":
        raise RowError("last_role", f"{where}: '{key}' is the {answer.role}'s turn; the assistant's is needed")
    if not answer.trained:
        raise RowError("not_trainable", f"{where}: '{key}' has weight 0; what is judged counts, so leave out the row")
    if answer.calls or answer.thoughts:
        what = "calls tools" if answer.calls else "has reasoning beside its text"
        raise RowError(
            "not_trainable", f"{where}: '{key}' {what}; a judged answer is a text, so write all into its content"
        )
    return answer.content


def hh_transcript(value: Mapping[str, Any], where: str) -> Comparison:
    """``chosen`` and ``rejected``, each a whole dialogue of Human and Assistant; all turns but the last are equal."""
    sides = []
    for key in ("chosen", "rejected"):
        turns = check_order(transcript(value[key], key, where), "assistant", where)
        sides.append((turns[:-1], turns[-1].content))
    return _pair(sides[0], sides[1], value, where)


def chosen_and_rejected(value: Mapping[str, Any], where: str) -> Comparison:
    """The two shapes have the same keys: a whole dialogue as text is HH's."""
    sides = [value["chosen"], value["rejected"]]
    explicit = value.get("prompt") is not None
    if not explicit and all(isinstance(s, str) for s in sides) and any(s.lstrip().startswith("Human:") for s in sides):
        return hh_transcript(value, where)
    return preference_pair(value, where)


def _pair(
    chosen: tuple[tuple[Message, ...], str],
    rejected: tuple[tuple[Message, ...], str],
    value: Mapping[str, Any],
    where: str,
) -> Comparison:
    if chosen[0] != rejected[0]:
        raise RowError(
            "prompts_differ", f"{where}: 'chosen' and 'rejected' answer different prompts; they must be equal"
        )
    if chosen[1] == rejected[1]:
        raise RowError("chosen_is_rejected", f"{where}: 'chosen' and 'rejected' are the same; they must differ")
    _check_scores(value, where)
    return _comparison(chosen[0], (chosen[1], rejected[1]), (1, 2), value, where)


def _check_scores(value: Mapping[str, Any], where: str) -> None:
    """Raises RowError where a row's own scores (or ranks) say that the rejected answer is the better one."""
    both = {f"{name}.{side}": of[side] for name in _SCORES if isinstance(of := value.get(name), Mapping) for side in of}
    for name, first, second in _SCORES_OF_PAIRS:
        better, worse = (_number(value[key] if key in value else both.get(key)) for key in (first, second))
        if better is None or worse is None:
            continue
        if (better > worse) if name == "rank" else (better < worse):
            raise RowError(
                "scores_disagree",
                f"{where}: '{first}' is {better:g} and '{second}' is {worse:g}: the rejected answer is the better "
                "one; swap the two answers, or take the scores out",
            )


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        return None


def ranking(value: Mapping[str, Any], where: str) -> Comparison:
    """``prompt``, ``completions`` (K texts) and ``ranking`` or ``ranks`` (K ranks: 1 is best, equal is a tie)."""
    prompt = prompt_of(value["prompt"], "prompt", where)
    listed = value["completions"]
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise RowError("wrong_type", f"{where}: 'completions' is a {type(listed).__name__}; a list of texts is needed")
    texts = tuple(completion_text(c, f"completions[{n}]", where) for n, c in enumerate(listed))
    if len(texts) < 2:
        raise RowError("not_a_ranking", f"{where}: {len(texts)} completions; a ranking needs 2 or more")
    if len(set(texts)) < len(texts):
        raise RowError("duplicate_completions", f"{where}: two completions are the same; rank each text once")
    key = "ranking" if "ranking" in value else "ranks"
    return _comparison(prompt, texts, _ranks(value[key], key, len(texts), where), value, where)


def completion_text(value: Any, key: str, where: str) -> str:
    """A completion as text, as one message, or as an object with ``text``."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping) and "type" not in value[0]:
        value = value[0]
    if not isinstance(value, Mapping):
        return text_of(value, key, where)
    if "role" in value or "from" in value:
        return judged(messages_of([value], key, where)[0], key, where)
    name = "text" if "text" in value else "content"
    check_part(value, (name,), where, key)
    return text_of(value.get(name), key, where)


def _ranks(value: Any, key: str, count: int, where: str) -> tuple[int, ...]:
    bad = f"{where}: '{key}' is {str(value)[:60]}"
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowError("not_a_ranking", f"{bad}; a list of {count} ranks is needed (1 is best, equal is a tie)")
    if len(value) != count:
        raise RowError("not_a_ranking", f"{bad}: {len(value)} ranks for {count} completions; one rank each")
    for rank in value:
        if isinstance(rank, bool) or not isinstance(rank, int):
            raise RowError("not_a_ranking", f"{bad}: {rank!r} is no whole number; ranks are 1 to {count}")
        if not 1 <= rank <= count:
            raise RowError("not_a_ranking", f"{bad}: {rank} is outside 1 to {count} (1 is best, equal is a tie)")
    if min(value) != 1:
        raise RowError("not_a_ranking", f"{bad}: nothing has rank 1; the best has")
    return tuple(value)


def _comparison(
    prompt: tuple[Message, ...], texts: tuple[str, ...], ranks: tuple[int, ...], value: Mapping[str, Any], where: str
) -> Comparison:
    prompt = check_order(untrained(in_context(value, prompt, where)), "user", where)
    who, weight, simulated = who_said(value, where)
    read = (
        *CONTEXT,
        "prompt",
        "completions",
        "ranking",
        "ranks",
        "chosen",
        "rejected",
        "weight",
        "margin",
        "simulated",
    )
    tags = tags_of(value, read)
    tags.pop("annotator", None)
    if value.get("flags"):
        tags["flags"] = json.dumps(value["flags"], ensure_ascii=False, sort_keys=True)
    return Comparison(prompt, texts, ranks, who, weight, simulated, where, tags, _margin(value, where))


def _margin(value: Mapping[str, Any], where: str) -> float:
    """How much better the better one is, where annotators said so (Llama 2, arXiv:2307.09288, equation 2)."""
    margin = 0.0 if value.get("margin") is None else value["margin"]
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not (math.isfinite(margin) and margin >= 0):
        raise RowError("wrong_type", f"{where}: 'margin' is {str(margin)[:30]}; a number of 0 or more is needed")
    return float(margin)


def who_said(value: Mapping[str, Any], where: str) -> tuple[str, float, bool]:
    """The row's annotator ("" where it names none), weight (1 where it has none), and whether no person said it."""
    weight = value.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not (math.isfinite(weight) and weight >= 0):
        raise RowError("wrong_type", f"{where}: 'weight' is {str(weight)[:30]}; a number of 0 or more is needed")
    simulated = value.get("simulated", False)
    if not isinstance(simulated, bool):
        raise RowError("wrong_type", f"{where}: 'simulated' is {str(simulated)[:30]}; true or false is needed")
    annotator = value.get("annotator", value.get("annotator_id", ""))
    return "" if annotator is None else str(annotator), float(weight), simulated


def tags_of(value: Mapping[str, Any], read: Sequence[str]) -> dict[str, str]:
    """The other fields of a row that are short and plain, and those of its ``tags``: kept with the record."""
    given = value.get("tags")
    every = {**given, **value} if isinstance(given, Mapping) else value
    kept = {k: v for k, v in every.items() if k not in read and isinstance(v, str | int | float)}
    return {str(k): str(v) for k, v in kept.items() if len(str(v)) <= 200}
