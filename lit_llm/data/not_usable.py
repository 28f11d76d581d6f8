"""The error of data that ends a run while it is read, with what is known of the data by then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lit_llm.data.overview import Overview
from lit_llm.errors import UserError


class NotUsable(UserError):  # noqa: N818 (it is what was found)
    """Data that ends a run while it is read. ``overview``: what is known of it; ``key``: as of ``Overview.beside``."""

    key = ""

    def __init__(self, message: str, overview: Overview) -> None:
        super().__init__(message)
        self.overview = overview


@contextmanager
def known_at_the_end(overview: Overview) -> Iterator[None]:
    """An error within it carries what is known of the data, which a user sees before the error."""
    try:
        yield
    except UserError as error:
        raise NotUsable(str(error), overview) from None


@contextmanager
def of_key(key: str) -> Iterator[None]:
    """A ``NotUsable`` within it is of the data that a key names."""
    try:
        yield
    except NotUsable as error:
        error.key = error.key or key
        raise
