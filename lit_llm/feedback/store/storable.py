"""Which texts every database can keep."""

from __future__ import annotations


def unstorable(text: object, longest: int | None = None) -> str | None:
    """What is wrong with ``text`` (no text, a NUL, half a surrogate pair, over ``longest`` characters), else None."""
    if not isinstance(text, str):
        return f"is {type(text).__name__}; must be text"
    if "\0" in text:
        return "contains the character NUL; leave it out"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "contains half a surrogate pair, which is no Unicode text"
    if longest is not None and len(text) > longest:
        return f"has {len(text)} characters; at most {longest} are kept"
    return None
