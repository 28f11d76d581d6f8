"""Where in a longer text a piece stands: some tokenizers put a blank before a text, others before every part of one.

Sentencepiece began every text with a blank, and its successors say so in rules: ``Prepend``, ``Metaspace`` with
``prepend_scheme`` ``always`` or ``first``, ``ByteLevel`` with ``add_prefix_space``. The library applies them to every
part between added tokens (``first``: to the one that begins the text). A text that is cut elsewhere, as where an answer
begins, must not get another blank there.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

from tokenizers import Tokenizer as Engine


class Place(Enum):
    """Where a piece of text stands."""

    START = "begins the text"
    SECTION = "follows a control token"
    INSIDE = "goes on with what stands before it"


class Places:
    """The ids of pieces by where they stand, as if the whole text had been encoded."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._words = {i for i, t in engine.get_added_tokens_decoder().items() if not t.special}
        self._rules = {place: _engine_at(engine, place) for place in (Place.SECTION, Place.INSIDE)}

    @property
    def matters(self) -> bool:
        """Whether any place gives other ids than the text's start."""
        return any(rules is not None for rules in self._rules.values())

    def encode(self, text: str, place: Place) -> list[int]:
        """Ids of ``text``, which stands at ``place``."""
        rules = None if place is Place.START else self._rules[place]
        if rules is None:
            return list(self._engine.encode(text, add_special_tokens=False).ids)
        if not self._words:
            return list(rules.encode(text, add_special_tokens=False).ids)
        whole = self._engine.encode(text, add_special_tokens=False)
        first = next((n for n, i in enumerate(whole.ids) if i in self._words), None)
        if first is None:
            return list(rules.encode(text, add_special_tokens=False).ids)
        head = text[: whole.offsets[first][0]]  # what follows an added word is a part of its own, wherever it stands
        before = list(rules.encode(head, add_special_tokens=False).ids) if head else []
        return before + list(whole.ids[first:])


def _engine_at(engine: Engine, place: Place) -> Engine | None:
    """The model with the rules that hold at ``place``, without added tokens; None where they are those of the start."""
    changed = False
    parts: dict[str, Any] = {}
    for name in ("normalizer", "pre_tokenizer"):
        part = getattr(engine, name)
        rule = None if part is None else json.loads(part.__getstate__())
        parts[name] = _without_blank(rule, place)
        changed |= parts[name] != rule
    if not changed:
        return None
    rules = Engine.from_str(json.dumps(_EMPTY | parts))
    found = Engine(engine.model)
    for name in parts:
        if (part := getattr(rules, name)) is not None:
            setattr(found, name, part)
    return found


_EMPTY: dict[str, Any] = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "post_processor": None, "decoder": None,
    "model": {"type": "BPE", "vocab": {}, "merges": []},
}  # fmt: skip


def _without_blank(rule: Any, place: Place, begins: bool = True) -> Any:
    """The rule as it is at ``place``; None where nothing is left of it.

    ``begins``: nothing cuts the text before this rule. Behind a cut a blank belongs to every word (as in T5).
    """
    if rule is None:
        return None
    if "normalizers" in rule:
        kept = [one for one in (_without_blank(r, place) for r in rule["normalizers"]) if one is not None]
        return rule | {"normalizers": kept} if kept else None
    if "pretokenizers" in rule:
        return rule | {"pretokenizers": [_without_blank(r, place, not n) for n, r in enumerate(rule["pretokenizers"])]}
    kind = rule["type"]
    if kind == "Metaspace" and (rule["prepend_scheme"] == "first" or (begins and place is Place.INSIDE)):
        return rule | {"prepend_scheme": "never"}
    if place is not Place.INSIDE or not begins:
        return rule
    if kind == "Prepend":
        return None
    if kind == "ByteLevel" and "add_prefix_space" in rule:
        return rule | {"add_prefix_space": False}
    return rule | {"strip_left": False} if kind == "Strip" else rule
