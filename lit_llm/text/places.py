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
        self._words = {i: bool(t.normalized) for i, t in engine.get_added_tokens_decoder().items() if not t.special}
        self._made: dict[tuple[Place, Place, bool], Engine | None] = {}

    @property
    def matters(self) -> bool:
        """Whether any place gives other ids than a whole text."""
        return any(self._rules(place, goes_on) for place in Place for goes_on in (False, True))

    def encode(self, text: str, place: Place, goes_on: bool = False) -> list[int]:
        """Ids of ``text``, which stands at ``place``; ``goes_on``: it is cut behind, no control token follows."""
        rules = self._rules(place, goes_on)
        if rules is not None and not self._words:
            return list(rules.encode(text, add_special_tokens=False).ids)
        rules, ends = self._rules(place), self._rules(Place.SECTION, True) if goes_on else None
        whole = self._engine.encode(text, add_special_tokens=False)
        words = [n for n, i in enumerate(whole.ids) if i in self._words] if rules or ends else []
        if not words:
            rules = self._rules(place, goes_on)
            return list(whole.ids if rules is None else rules.encode(text, add_special_tokens=False).ids)
        first, last = words[0], words[-1]
        before, behind = whole.ids[:first], whole.ids[last + 1 :]
        # What follows an added word is a part of its own, wherever it stands.
        if rules and (start := text[: whole.offsets[first][0]]):
            head = self._rules(place, self._words[whole.ids[first]]) or rules
            before = head.encode(start, add_special_tokens=False).ids
        if ends and (tail := text[whole.offsets[last][1] :]):
            if self._words[whole.ids[last]]:  # it is found in the normalized text, which goes on behind it
                ends = self._rules(Place.INSIDE, True, Place.SECTION) or ends
            behind = ends.encode(tail, add_special_tokens=False).ids
        return [*before, *whole.ids[first : last + 1], *behind]

    def _rules(self, place: Place, goes_on: bool = False, words: Place | None = None) -> Engine | None:
        """The model with the rules for ``place`` (the pre-tokenizer for ``words``); None: as at the start."""
        key = place, words or place, goes_on
        if key not in self._made:
            self._made[key] = _engine_at(self._engine, *key)
        return self._made[key]


def _engine_at(engine: Engine, place: Place, words: Place, goes_on: bool) -> Engine | None:
    """The model with the rules that hold at a place, without added tokens; None where they are those of the start."""
    changed = False
    parts: dict[str, Any] = {}
    for name, at in (("normalizer", place), ("pre_tokenizer", words)):
        part = getattr(engine, name)
        rule = None if part is None else json.loads(part.__getstate__())
        parts[name] = _without_blank(rule, at, goes_on)
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


def _without_blank(rule: Any, place: Place, goes_on: bool, begins: bool = True) -> Any:
    """The rule as it is at ``place``; None where nothing is left of it. A cut is neither a text's start nor its end.

    ``begins``: nothing cuts the text before this rule. Behind a cut a blank belongs to every word (as in T5).
    """
    if rule is None:
        return None
    if "normalizers" in rule:
        kept = [one for r in rule["normalizers"] if (one := _without_blank(r, place, goes_on)) is not None]
        return rule | {"normalizers": kept} if kept else None
    if "pretokenizers" in rule:
        parts = [_without_blank(r, place, goes_on, not n) for n, r in enumerate(rule["pretokenizers"])]
        return rule | {"pretokenizers": parts}
    kind = rule["type"]
    if kind == "Strip":
        left, right = rule["strip_left"], rule["strip_right"]
        return rule | {"strip_left": left and place is not Place.INSIDE, "strip_right": right and not goes_on}
    at_start = place is Place.START
    if (
        kind == "Metaspace"
        and not at_start
        and (rule["prepend_scheme"] == "first" or (begins and place is Place.INSIDE))
    ):
        return rule | {"prepend_scheme": "never"}
    if place is not Place.INSIDE or not begins:
        return rule
    if kind == "Prepend":
        return None
    return rule | {"add_prefix_space": False} if kind == "ByteLevel" and "add_prefix_space" in rule else rule


def trimmed(
    pieces: list[tuple[str, bool, bool]], before: frozenset[str], behind: frozenset[str]
) -> list[tuple[str, bool, bool]]:
    """(text, whether it is a control token, whatever) of pieces, without the blanks that control tokens take with them:
    ``before`` and ``behind`` are those whose entries say ``lstrip`` and ``rstrip``."""
    if not before and not behind:
        return pieces
    found = list(pieces)
    for step, takers, strip in ((1, behind, str.lstrip), (-1, before, str.rstrip)):
        taking = False
        for n in range(len(found))[::step]:
            piece, is_control, trained = found[n]
            if is_control:
                taking = piece in takers
            elif taking:
                found[n] = (kept := strip(piece), False, trained)
                taking = not kept
    return found
