"""The fast path of ``Tokenizer.encode_batch``: every distinct piece of text is encoded once and then looked up.

A byte-level BPE cuts a text into pieces (a word with the space before it, a run of signs) by a regular expression and
encodes each for itself. A corpus has few distinct ones: 1.6 million pieces of documentation are 51,000. Python's own
``re`` finds them at 26 MB a second and a dict knows their ids at 30; the library, which cuts and encodes every one
anew, gets through 3 MB a second on a core. Its plain twin is ``Engine.encode``.

What is a letter, a number or a blank is asked of the library itself, since Python may know another version of Unicode.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Engine

from lit_llm.model_sources.pre_tokenizers import LLAMA3, QWEN2

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = (QWEN2, LLAMA3, GPT2)
"""Those that Python is known to read as the library does (the tests compare them)."""

MOST_PIECES = 2**18  # kept: about 50 MB
LONGEST_PIECE = 64  # characters of one that is kept: longer ones do not come again
_BEYOND = re.compile("[\ud800-\udfff\U00010000-\U0010ffff]")
"""Texts with these (pictures, rare ideographs) are the library's: sets beyond 16 bits make Python's search slow."""


class Pieces(dict[str, bytes]):
    """Ids of the pieces met so far, 4 bytes each as this machine orders them, so that those of a text are joined at
    once; an unknown piece is encoded when it is asked for."""

    def __init__(self, engine: Engine, pattern: str, only_ascii: bool) -> None:
        super().__init__()
        self._cut: Callable[[str], list[str]] = _compiled(pattern).findall
        self._only_ascii = only_ascii
        self._engine = Engine(engine.model)  # without a pattern: what it gets is one piece
        self._engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def __missing__(self, piece: str) -> bytes:
        ids = array("I", self._engine.encode(piece, add_special_tokens=False).ids).tobytes()
        if len(self) < MOST_PIECES and len(piece) <= LONGEST_PIECE:
            self[piece] = ids
        return ids

    def packed(self, text: str) -> bytes | None:
        """The text's ids as 32 bits each; None where only the library knows them."""
        if not text.isascii() and (self._only_ascii or _BEYOND.search(text)):
            return None
        return b"".join(map(self.__getitem__, self._cut(text)))

    def encode(self, text: str) -> list[int] | None:
        """The text's ids, the same as the library's; None where only the library knows them."""
        found = self.packed(text)
        return None if found is None else unpacked(found)


def unpacked(ids: bytes) -> list[int]:
    """What ``Pieces.packed`` gives, as numbers."""
    numbers: list[int] = memoryview(ids).cast("I").tolist()
    return numbers


def pieces_of(engine: Engine) -> Pieces | None:
    """A table for this tokenizer, or None for one that cuts or prepares its texts in another way."""
    if engine.truncation is not None or engine.padding is not None:
        return None
    if not all(token.special for token in engine.get_added_tokens_decoder().values()):
        return None  # words that are found before the text is cut
    rules = json.loads(engine.to_str())
    pattern, normalizer = _pattern(rules["pre_tokenizer"] or {}), rules["normalizer"]
    if pattern not in PATTERNS or (normalizer is not None and normalizer["type"] != "NFC"):
        return None
    return Pieces(engine, pattern, only_ascii=normalizer is not None)  # which NFC leaves as it is


def _pattern(rule: dict[str, Any]) -> str | None:
    """By what a byte-level tokenizer cuts: its own default, or that of the step before it."""
    steps = rule.get("pretokenizers", [rule])
    if steps[-1].get("type") != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    if steps[-1]["use_regex"]:
        return GPT2 if len(steps) == 1 else None
    cut = steps[0]
    if len(steps) != 2 or cut["type"] != "Split" or cut["behavior"] != "Isolated" or cut["invert"]:
        return None
    return str(cut["pattern"].get("Regex"))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """The pattern for Python: its classes written out as ranges of characters."""
    written, inside = [], False
    for part in re.findall(r"\\p\{.\}|\\.|.", pattern):
        inside = part == "[" if part in "[]" else inside
        name = part.replace("S", "s")
        if name in (r"\p{L}", r"\p{N}", r"\s"):
            ranges = _ranges(name)
            part = ranges if inside else f"[{'^' if part == chr(92) + 'S' else ''}{ranges}]"
        written.append(part)
    return re.compile("".join(written))


@cache
def _ranges(name: str) -> str:
    """A class's characters for use between brackets, as the library finds them among those of 16 bits."""
    runs = pre_tokenizers.Split(Regex(f"{name}+"), "removed", invert=True).pre_tokenize_str(_everything())
    return "".join(f"{re.escape(run[0])}-{re.escape(run[-1])}" for run, _ in runs)


@cache
def _everything() -> str:
    """Every character of 16 bits but the half surrogates, in order."""
    return "".join(map(chr, chain(range(0xD800), range(0xE000, 0x10000))))
