"""What the store refuses, each as an exception of its own; whoever is told can act on it."""

from __future__ import annotations

from lit_llm.errors import UserError


class Stale(Exception):  # noqa: N818 - what is refused, not that something broke
    """The writer saw an older version than the one that is kept: nothing was changed."""

    def __init__(self, current: int) -> None:
        super().__init__(f"this was changed elsewhere in the meantime; the version that is kept is {current}")
        self.current = current


class LeaseLost(Exception):  # noqa: N818 - what is refused, not that something broke
    """The item's time ran out and another annotator has it: nothing was changed."""

    def __init__(self) -> None:
        super().__init__("the time for this item ran out and it was given to somebody else")


class NotYours(Exception):  # noqa: N818 - what is refused, not that something broke
    """The item is another annotator's, or there is none of that number (the two are not told apart)."""

    def __init__(self) -> None:
        super().__init__("there is no such item of yours")


class Invalid(UserError):  # noqa: N818 - what is refused, not that something broke
    """The judgement says something that cannot be: the message names the field, the value and what would be right.

    ``reason`` is a word for what people meet in the page, who are told in their language; empty for programs' mistakes.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Unavailable(Exception):  # noqa: N818 - what is refused, not that something broke
    """The database did not take it (locked for too long, disk full, connection lost): nothing was kept; try again."""


class Throttled(Exception):  # noqa: N818 - what is refused, not that something broke
    """Too many failed log-ins: the next attempt is taken after ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many failed attempts; try again in {seconds:.0f} seconds")
        self.seconds = seconds
