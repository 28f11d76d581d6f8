"""What the templates are given of an item: texts made safe, and a judgement as words.

Only what an annotator may know passes through here: no model, no checkpoint, no kind of item.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lit_llm.feedback.judgement_json import write_flag
from lit_llm.feedback.store.items import Card, Item
from lit_llm.feedback.store.judgement import SCALES, Flag, Judgement
from lit_llm.feedback.store.projects import ProjectSettings
from lit_llm.feedback.web import hostile_text, markdown
from lit_llm.feedback.web.judgement_form import Entry
from lit_llm.feedback.web.languages import Language
from lit_llm.feedback.web.rank_moves import groups
from lit_llm.records import Message

PASSAGE = 60
"""Characters of a flagged passage that its line shows."""


def form_values(
    action: str, version: int, messages: Sequence[Message], cards: Sequence[Card], entry: Entry, language: Language,
    project: ProjectSettings,
) -> dict[str, Any]:  # fmt: skip
    """The values of ``_judgement.html`` that an item and a disputed task have in common."""
    judgement = entry.judgement
    return {
        "action": action, "version": version, "save_at": "", "can_save": False, "lease_until": None,
        "lease_minutes": round(project.lease_minutes), "seconds": judgement.seconds, "opened": f"{time.time():.1f}",
        "instructions": hostile_text.shown(project.instructions) if project.instructions else "",
        "turns": [turn(message) for message in messages],
        "cards": [card(place, one, entry, language, project.ratings) for place, one in enumerate(cards)],
        "places": range(1, len(cards) + 1), "flag_kinds": project.flag_kinds, "ties": project.allow_ties,
        "all_bad": judgement.all_bad, "comment": judgement.comment,
        "has_help": False, "skip_at": None, "skip_open": False, "skip_reasons": (), "skip_reason": "", "skip_text": "",
    }  # fmt: skip


def entry_of(item: Item) -> Entry:
    """What is saved of an item, as an entry of its form."""
    return Entry(item.draft or Judgement())


def turn(message: Message) -> dict[str, Any]:
    return {
        "role": message.role,
        "text": markdown.rendered(message.content),
        "long": hostile_text.is_long(message.content),
        "characters": f"{len(message.content):,}",
    }


def card(place: int, one: Card, entry: Entry, language: Language, rated: bool) -> dict[str, Any]:
    judgement, pending = entry.judgement, entry.pending.get(one.key, {})
    ratings = judgement.ratings.get(one.key, {})
    return {
        "key": one.key,
        "letter": letter(place, language),
        "text": markdown.rendered(one.text),
        "long": hostile_text.is_long(one.text),
        "characters": f"{len(one.text):,}",
        "rank": judgement.ranks.get(one.key),
        "scales": [{"name": name, "value": ratings.get(name)} for name in SCALES] if rated else [],
        "note": judgement.notes.get(one.key, ""),
        "flags": [
            {"value": json.dumps(write_flag(flag)), "text": flag_line(flag, one.text, language)}
            for flag in judgement.flags
            if flag.key == one.key
        ],
        "flagging": bool(pending),
        "new_flag": {
            "kind": pending.get("kind", ""),
            "severity": int(pending.get("severity") or 2),
            "quote": pending.get("quote", ""),
        },
    }


def letter(place: int, language: Language) -> str:
    """How a card is called on the page: by where it stands."""
    letters = language.say("letters")
    return letters[place] if place < len(letters) else str(place + 1)


def flag_line(flag: Flag, text: str, language: Language) -> str:
    """One flag in words: kind, severity, and the passage or that it is about the whole answer."""
    known = flag.severity if flag.severity in (1, 2, 3) else 2
    words = f"{language.flag(flag.kind)} · {language.say(f'severity.{known}')} · "
    if flag.start is None or flag.end is None:
        return words + language.say("flags.whole")
    passage = text[flag.start : flag.end]
    cut = passage if len(passage) <= PASSAGE else passage[: PASSAGE - 1] + "…"
    return words + f"“{hostile_text.plain(' '.join(cut.split()))}”"


def in_words(judgement: Judgement, cards: Sequence[Card], language: Language) -> dict[str, Any]:
    """A judgement for ``_saved.html``: the order of the letters, one line per note, rating or flag."""
    letters = {one.key: letter(place, language) for place, one in enumerate(cards)}
    lines = []
    for one in cards:
        scales = judgement.ratings.get(one.key, {})
        said = [f"{language.say(f'scale.{name}')} {value}" for name in SCALES if (value := scales.get(name))]
        if said:
            lines.append({"card": letters[one.key], "what": "1–7", "text": " · ".join(said)})
        lines += [
            {"card": letters[one.key], "what": language.say("flags.add"), "text": flag_line(flag, one.text, language)}
            for flag in judgement.flags
            if flag.key == one.key
        ]
        if note := judgement.notes.get(one.key, ""):
            lines.append({"card": letters[one.key], "what": language.say("saved.note"), "text": note})
    return {
        "all_bad": judgement.all_bad, "order": order(judgement.ranks, letters), "lines": lines,
        "comment": judgement.comment,
    }  # fmt: skip


def order(ranks: Mapping[str, int | None], letters: Mapping[str, str]) -> str:
    """``B > A = C``: best first, ties with an equals sign; nothing for no ranks."""
    return " > ".join(" = ".join(letters[key] for key in group) for group in groups(ranks, list(letters)))
