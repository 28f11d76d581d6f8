"""Markdown as its reader means it, with every character still on the page: headings, lists, quotes, code, emphasis.

Answers are hostile HTML, and a flag's passage counts the code points of the raw text. So nothing is taken out and no
markup comes through: each character is escaped as ``hostile_text`` does, in elements that only carry a class, and the
signs of Markdown are shrunk by the style sheet (they are still selected and copied). A link is no link: its address
is shown as text. Elements are blocks (``div``) and what stands in a line (``span``); ``dir`` is set block by block, so
that a right-to-left paragraph stands right and code left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from markupsafe import Markup

from lit_llm.feedback.web.hostile_text import shown

LONGEST_LINE = 4_000
LONGEST_TEXT = 60_000
"""Characters in which emphasis is looked for. The time grows in step with the length of a text, whatever it holds (a
sign looks at most 300 characters ahead for its partner); a page takes the sum of its texts."""
DEEPEST = 6  # emphasis in emphasis

_FENCE = re.compile(r"[ ]{0,3}(`{3,}|~{3,})(.*)")
_HEADING = re.compile(r"([ ]{0,3}#{1,6}[ \t]+)(?=\S)")
_QUOTE = re.compile(r"([ ]{0,3}>[ \t]?)")
_ITEM = re.compile(r"([ \t]*)([-*+]|\d{1,4}[.)])([ \t]+)(?=\S)")
_RULE = re.compile(r"[ ]{0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})")
_TABLE = re.compile(r"[ \t]*\|.*\|[ \t]*")
_INLINE = re.compile(
    r"(?P<code>(?<!`)(?P<ticks>`{1,3})(?!`)(?P<coded>.{1,300}?)(?<!`)(?P=ticks)(?!`))"
    r"|(?P<strong>(?P<two>\*\*|__)(?=\S)(?P<loud>.{1,300}?)(?<=\S)(?P=two))"
    r"|(?P<struck>~~(?=\S)(?P<gone>.{1,300}?)(?<=\S)~~)"
    r"|(?P<em>(?<![\w*])\*(?=[^\s*])(?P<leaning>[^*]{1,300}?)(?<=\S)\*(?![\w*]))"
    r"|(?P<em2>(?<![\w_])_(?=[^\s_])(?P<leaning2>[^_]{1,300}?)(?<=\S)_(?![\w_]))"
    r"|(?P<link>!?\[(?P<label>[^\[\]]{1,300})\]\((?P<address>[^()\s]{1,300}(?:\([^()\s]{0,80}\)[^()\s]{0,80})?)\))"
)


def rendered(text: str) -> Markup:
    """The text as HTML that shows every character, runs nothing and looks as its Markdown says."""
    return Markup("").join(_blocks(text.split("\n"), 0 if len(text) <= LONGEST_TEXT else DEEPEST + 1))


def _blocks(lines: list[str], depth: int) -> Iterator[Markup]:
    """One element for each line, and one for a run of lines of code; each holds the line feed that ends it."""
    ends = ["\n"] * (len(lines) - 1) + [""]
    at = 0
    while at < len(lines):
        line, end = lines[at], ends[at]
        fence = _FENCE.fullmatch(line)
        if fence is not None and "`" not in fence[2]:
            last = _closing(lines, at, fence[1])
            inner = "".join(map("".join, zip(lines[at + 1 : last], ends[at + 1 : last], strict=True)))
            closing = _sign(lines[last] + ends[last]) if last < len(lines) else ""
            yield _block("code", _sign(line + end) + shown(inner) + closing, "ltr")
            at = last + 1
            continue
        if _TABLE.fullmatch(line):
            last = next((n for n in range(at, len(lines)) if not _TABLE.fullmatch(lines[n])), len(lines))
            yield _block("table", shown("".join(map("".join, zip(lines[at:last], ends[at:last], strict=True)))))
            at = last
            continue
        yield _line(line, end, depth)
        at += 1


def _closing(lines: list[str], opened: int, fence: str) -> int:
    """The line that closes a fence; behind the last where none does."""
    for number in range(opened + 1, len(lines)):
        found = _FENCE.fullmatch(lines[number])
        if found is not None and found[1].startswith(fence) and not found[2].strip():
            return number
    return len(lines)


def _line(line: str, end: str, depth: int) -> Markup:
    if _RULE.fullmatch(line):
        return _block("rule", shown(line + end))
    if found := _HEADING.match(line):
        return _block(f"h{found[1].count('#')}", _sign(found[1]) + _inline(line[found.end() :], depth) + end)
    if found := _QUOTE.match(line):
        return _block("quote", _sign(found[1]) + _inline(line[found.end() :], depth) + end)
    if found := _ITEM.match(line):
        start = shown(found[1]) + Markup('<span class="bullet">{}</span>').format(shown(found[2] + found[3]))
        return _block("item", start + _inline(line[found.end() :], depth) + end)
    return _block("line", _inline(line, depth) + end)


def _inline(text: str, depth: int) -> Markup:
    """Code, emphasis and links within a line."""
    if len(text) > LONGEST_LINE or depth > DEEPEST:
        return shown(text)
    parts: list[Markup] = []
    end = 0
    for found in _INLINE.finditer(text):
        parts += [shown(text[end : found.start()]), _piece(found, depth)]
        end = found.end()
    return Markup("").join([*parts, shown(text[end:])])


def _piece(found: re.Match[str], depth: int) -> Markup:
    if found["code"] is not None:
        return _within("code", found["ticks"], shown(found["coded"]), found["ticks"], "ltr")
    if found["strong"] is not None:
        return _within("strong", found["two"], _inline(found["loud"], depth + 1), found["two"])
    if found["struck"] is not None:
        return _within("struck", "~~", _inline(found["gone"], depth + 1), "~~")
    if found["em"] is not None:
        return _within("em", "*", _inline(found["leaning"], depth + 1), "*")
    if found["em2"] is not None:
        return _within("em", "_", _inline(found["leaning2"], depth + 1), "_")
    opening = "![" if found["link"].startswith("!") else "["
    address = Markup('<span class="address" dir="ltr">{}</span>').format(shown(f"({found['address']})"))
    return _within("link", opening, _inline(found["label"], depth + 1), "]") + address


def _within(kind: str, opening: str, inner: Markup, closing: str, direction: str = "") -> Markup:
    turned = f' dir="{direction}"' if direction else ""
    return Markup(f'<span class="{kind}"{turned}>{_sign(opening)}{inner}{_sign(closing)}</span>')


def _sign(text: str) -> Markup:
    """What only Markdown reads."""
    return Markup(f'<span class="sign">{shown(text)}</span>')


def _block(kind: str, inner: Markup, direction: str = "auto") -> Markup:
    return Markup(f'<div class="md {kind}" dir="{direction}">{inner}</div>')
