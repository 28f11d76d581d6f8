"""Ids of plain texts, by a table of pieces or by the library: the same ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Engine

from lit_llm.errors import UserError
from lit_llm.text.places import Place, Places
from lit_llm.text.pretokenization import Pieces, pieces_of, unpacked
from lit_llm.text.tokenizer_files import one_line

Ids = TypeVar("Ids")
WORTH_PIECES = 500_000
"""Characters after which a table of pieces is made (0.15 seconds): a short run starts without it."""
WORTH_LIBRARY = 3
"""Cores: on one, the table does 7 MB a second and the library 2 to 3; only the library uses them all."""


class PlainText:
    """Of an engine as it is: one that has learned more tokens wants another."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._characters = 0  # encoded so far

    def encode(self, text: str, place: Place = Place.START, goes_on: bool = False) -> list[int]:
        """As ``Tokenizer.encode``."""
        if (goes_on or place is not Place.START) and self._places.matters:
            return self._ids(text, lambda: self._places.encode(text, place, goes_on))
        found = self._looked_up(text)
        return self._encode_one(text) if found is None else unpacked(found)

    def _encode_one(self, text: str) -> list[int]:
        return self._ids(text, lambda: list(self._engine.encode(text, add_special_tokens=False).ids))

    def _ids(self, text: str, encoded: Callable[[], list[int]]) -> list[int]:
        """Raises UserError for what is no Unicode, and for what the vocabulary has no token for."""
        try:
            return encoded()
        except (TypeError, UnicodeEncodeError):  # the library's answer to what is no UTF-8
            raise UserError(f"text: {_what_is_wrong(text)}") from None
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"text: the tokenizer cannot encode {text[:40]!r} ({one_line(error)})") from None

    @cached_property
    def _places(self) -> Places:
        return Places(self._engine)

    def batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts."""
        return self._encoded(texts, unpacked, list)

    def arrays(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """``batch``, each (T,)."""
        return self._encoded(
            texts, lambda ids: np.frombuffer(ids, np.uint32), lambda ids: np.fromiter(ids, np.uint32, len(ids))
        )

    def _encoded(
        self, texts: Sequence[str], of_bytes: Callable[[bytes], Ids], of_list: Callable[[list[int]], Ids]
    ) -> list[Ids]:
        if library_cores() > WORTH_LIBRARY:
            return [of_list(ids) for ids in self._encode_all(list(texts))]
        found = [self._looked_up(text) for text in texts]
        rest = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        others = iter(self._encode_all(rest) if rest else [])
        return [of_list(next(others)) if ids is None else of_bytes(ids) for ids in found]

    def _looked_up(self, text: str) -> bytes | None:
        """From the table of pieces, as soon as that is worth it and where it knows the tokenizer's rules."""
        if self._characters < WORTH_PIECES:
            self._characters += len(text)
            return None
        return None if self._pieces is None else self._pieces.packed(text)

    @cached_property
    def _pieces(self) -> Pieces | None:
        return pieces_of(self._engine)

    def _encode_all(self, texts: list[str]) -> list[list[int]]:
        """By the library, on all cores that it may use."""
        try:
            return [e.ids for e in self._engine.encode_batch_fast(texts, add_special_tokens=False)]
        except Exception:  # the library raises bare Exception
            return [self._encode_one(text) for text in texts]  # names the text


def library_cores() -> int:
    """Cores that the library may use in this process."""
    if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("false", "0", "off", "no"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _what_is_wrong(text: object) -> str:
    if not isinstance(text, str):
        return f"a {type(text).__name__}; a string is needed"
    at = next((n for n, c in enumerate(text) if "\ud800" <= c <= "\udfff"), 0)
    return f"character {at} is half of a surrogate pair; give valid Unicode"
