"""How often people prefer one model's answer to the other's, blind, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from lit_llm.errors import UserError
from lit_llm.feedback.agreement import share, shown
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.projects import settings
from lit_llm.feedback.store.rankings import rows
from lit_llm.feedback.store.tables import PromptRow

ALIKE = "answered_alike"  # the tag that says how many prompts both models answered with the same text


def win_rate(store: Store) -> dict[str, Any]:
    """Of a comparison project: how often ``after`` was preferred to ``before``, a tie being half a win.

    Returns:
        {"mean", "se", "low", "high", "n"} as ``agreement.share``: Wilson's interval, where the judgements of one prompt
        by several annotators are a cluster, and n counts prompts; "wins", "ties", "losses"; "all_bad": the judgements,
        whatever they prefer, that call both answers bad; "after", "before": the models, and "after_hash",
        "before_hash": of their weights, "" where not known; "answered_alike": prompts that both answered with the same
        text, which nobody saw and which count nowhere; "by_annotator": {pseudonym: the rate and the four counts}.

    Raises UserError when the project compares nothing, nothing was judged yet, or answers of a third model were.
    """
    if settings(store).kind != "comparison":
        raise UserError(f"{store.place}: compares no two models; rank.py model=AFTER against=BEFORE prompts=... does")
    roles = _roles(store)
    found = list(rows(store))
    if not found:
        raise UserError(f"{store.place}: nothing is judged yet; python scripts/rank.py project={store.place}")
    hashes = {f"{role}_hash": _hash(store, found, roles[f"{role}_model"]) for role in ("after", "before")}
    judged = [_judged(row, roles, store.place) for row in found]
    names = sorted({name for name, _, _, _ in judged})
    return {
        **_rate([(value, prompt, bad) for _, value, prompt, bad in judged]),
        "after": roles["after_model"],
        "before": roles["before_model"],
        **hashes,
        ALIKE: int(roles.get(ALIKE, 0)),
        "by_annotator": {
            name: _rate([(value, prompt, bad) for who, value, prompt, bad in judged if who == name]) for name in names
        },
    }


def describe(found: Mapping[str, Any]) -> str:
    """The rate, and each annotator's where there are several, for people."""
    lines = [
        f"{found['after']} against {found['before']}: {shown(found, percent=True)}",
        f"wins {found['wins']}, losses {found['losses']}, ties {found['ties']}; both bad {found['all_bad']}; "
        f"answered alike and not shown: {found[ALIKE]} prompts",
    ]
    if len(found["by_annotator"]) > 1:
        lines += [f"  {name}: {shown(of, percent=True)}" for name, of in found["by_annotator"].items()]
    return "\n".join(lines)


def _roles(store: Store) -> dict[str, str]:
    """What the items say of the models: tags of the newest prompt that has them."""
    with store.read() as session:
        tags = session.scalars(select(PromptRow.tags).order_by(PromptRow.id.desc()).limit(1)).first() or {}
        alike = max((int(t.get(ALIKE, 0)) for t in session.scalars(select(PromptRow.tags))), default=0)
    missing = [key for key in ("after_model", "before_model") if key not in tags]
    if missing:
        raise UserError(
            f"{store.place}: its prompts do not say which model is which ({missing[0]} is no tag of theirs)"
        )
    return {**tags, ALIKE: str(alike)}


def _hash(store: Store, judged: Sequence[Mapping[str, Any]], model: str) -> str:
    """The hash of the one checkpoint whose answers were judged under a model's name."""
    found = {
        checkpoint
        for row in judged
        for name, checkpoint in zip(row["models"], row["checkpoints"], strict=True)
        if name == model
    }
    if len(found) > 1:
        raise UserError(f"{store.place}: has answers of several checkpoints of {model}: {', '.join(sorted(found))}")
    return found.pop() if found else ""


def _judged(row: Mapping[str, Any], roles: Mapping[str, str], place: str) -> tuple[str, float, str, bool]:
    """(annotator, 1 for a win of ``after``, 0 for a loss, a half for a tie; prompt; all bad)."""
    ranks = dict(zip(row["models"], row["ranking"], strict=True))
    if set(ranks) != {roles["after_model"], roles["before_model"]}:
        raise UserError(f"{place}: task {row['task']} compares {' and '.join(ranks)}, which are not the project's two")
    after, before = ranks[roles["after_model"]], ranks[roles["before_model"]]
    value = 0.5 if after == before else float(after < before)
    return row["annotator"], value, row["prompt_hash"], row["all_bad"]


def _rate(judged: Sequence[tuple[float, str, bool]]) -> dict[str, Any]:
    values = [value for value, _, _ in judged]
    return {
        **share(values, [prompt for _, prompt, _ in judged]),
        "wins": values.count(1.0),
        "losses": values.count(0.0),
        "ties": values.count(0.5),
        "all_bad": sum(bad for _, _, bad in judged),
    }
