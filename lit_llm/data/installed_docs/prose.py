"""Docstrings as plain English: the marks of reStructuredText, tables and formulas taken out, sections told apart."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_TITLES = (
    "args|arguments|parameters|other parameters|keyword args|keyword arguments|returns?|yields?|raises|attributes|"
    "methods|examples?|usage|notes?|warnings?|warns|see also|references?|shape|todo|explanation|inputs?|outputs?"
)
_GOOGLE = re.compile(rf"({_TITLES}):{{1,2}}", re.I)
_UNDERLINE = re.compile(r"([=\-~^\"'*#+_])\1{2,}")
_FIELD = re.compile(
    r":(param|parameter|arg|argument|keyword|return|returns|raises?|rtype|type|yields?)\b([^:]*):\s*(.*)"
)
_DROPPED = ("references", "reference", "see also", "todo", "methods")
_KEPT_DIRECTIVES = ("note", "warning", "tip", "important", "caution")
_PARAMETERS = (
    "parameters",
    "args",
    "arguments",
    "other parameters",
    "keyword args",
    "keyword arguments",
    "inputs",
    "input",
)
_RETURNS = ("returns", "return", "yields", "yield", "outputs", "output")

_MARKED = re.compile(r"[:`*_<\[\\]|\s[.,;]")
_MARKUP: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r":[\w:+-]+:`~?!?([^`<]+?)\s*<[^`>]*>`"), r"\1"),  # :ref:`text <target>`
    (re.compile(r":[\w:+-]+:`~([^`]+)`"), lambda m: m[1].rpartition(".")[2]),  # :class:`~torch.Tensor`
    (re.compile(r":[\w:+-]+:`!?\.?([^`]+)`"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]+>`_{1,2}"), r"\1"),  # `text <address>`_
    (re.compile(r"\[([^\]\n]+)\]\((?:https?:)?[^)\s]*\)"), r"\1"),  # markdown
    (re.compile(r"`([^`\n]+)`_{1,2}"), r"\1"),
    (re.compile(r"``([^`]+)``"), r"\1"),
    (re.compile(r"`([^`\n]+)`"), r"\1"),
    (re.compile(r"\*\*([^*\n]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*(])\*([^*\s][^*\n]*)\*(?![\w*])"), r"\1"),
    (re.compile(r"\s*\[#?\w{0,12}\]_"), ""),  # footnotes
    (re.compile(r"(\w)_(?=[\s.,;)]|$)"), r"\1"),  # name_
    (re.compile(r"</?\w+/?>"), ""),
]


@dataclass
class Doc:
    """A docstring: ``summary`` is its first sentence, ``body`` the prose that follows it, before any section."""

    summary: str = ""
    body: list[str] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    returns: str = ""
    paragraphs: list[str] = field(default_factory=list)  # all of it, cleaned


def plain(text: str) -> str:
    """One paragraph without inline markup."""
    if not _MARKED.search(text):
        return text
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\s+([.,;])(?=\s|$)", r"\1", text)
    return text.replace("\\ ", "").replace("\\*", "*").replace("\\_", "_")


def parse(doc: str) -> Doc:
    """A cleaned docstring (``inspect.cleandoc``) in parts."""
    sections = list(_sections(_directives(doc.expandtabs().split("\n"))))
    result = Doc()
    for title, lines in sections:
        low = title.lower()
        if low in _DROPPED:
            continue
        if low in _PARAMETERS or low == "attributes":
            entries = dict(_entries(lines))
            if low != "attributes":
                result.parameters |= entries
            written = [f"{name}: {text}" for name, text in entries.items() if text]
        elif low in _RETURNS:
            result.returns = result.returns or _returned(lines)
            written = [result.returns] if result.returns else []
        else:
            written = list(_paragraphs(lines))
            if not title:
                result.body += written
        if written:
            result.paragraphs += [f"{title.capitalize()}:"] * bool(title) + written
    _take_fields(result)
    if result.body:
        if _is_signature(result.body[0]):
            dropped = result.body.pop(0)
            result.paragraphs.remove(dropped)
        if result.body:
            result.summary, rest = first_sentence(result.body[0])
            result.body = [*([rest] if rest else []), *result.body[1:]]
    return result


def _take_fields(doc: Doc) -> None:
    """Sphinx's ``:param x: text`` stand in the body: they become parameters."""
    kept = []
    for paragraph in doc.body:
        found = _FIELD.match(paragraph)
        if not found:
            kept.append(paragraph)
        elif found[1].startswith(("param", "arg", "keyword")) and found[2].split():
            doc.parameters[found[2].split()[-1]] = found[3]
        elif found[1].startswith(("return", "yield")):
            doc.returns = doc.returns or found[3]
    doc.body = kept
    doc.paragraphs = [_FIELD.sub(_written_field, p) for p in doc.paragraphs if not re.match(r":r?type\b", p)]


def _written_field(found: re.Match[str]) -> str:
    name = found[2].strip().split()
    if found[1].startswith(("return", "yield")):
        return f"Returns: {found[3]}"
    return f"{name[-1]}: {found[3]}" if name else found[3]


def _is_signature(text: str) -> bool:
    return re.fullmatch(r"[\w.]+\(.*\)(\s*->.*)?\.?", text) is not None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _directives(lines: list[str]) -> Iterator[str]:
    """Blocks of ``.. name::``: notes keep their text, everything else (formulas, plots, code, versions) goes."""
    at = 0
    while at < len(lines):
        line = lines[at]
        found = re.match(r"(\s*)(?:\.\. (?:([\w-]+)::\s*(.*)|[\[_|].*|\w.*)|\.\.$)", line)
        if found is None:
            yield re.sub(r"::$", ":", line)
            at += 1
            continue
        kept = found[2] in _KEPT_DIRECTIVES
        if kept and found[3]:
            yield found[1] + found[3]
        at += 1
        inner = None
        while at < len(lines) and (not lines[at].strip() or _indent(lines[at]) > len(found[1])):
            if kept and lines[at].strip():
                inner = _indent(lines[at]) if inner is None else inner
                yield found[1] + lines[at][min(inner, _indent(lines[at])) :]
            elif kept:
                yield ""
            at += 1
        yield ""


def _sections(lines: Iterator[str]) -> Iterator[tuple[str, list[str]]]:
    """(title, lines) in order, in numpy's and Google's style; the part before the first title has none."""
    every = list(lines)
    title = ""
    part: list[str] = []
    base: int | None = None  # of Google's title: a line at its indentation ends the section
    at = 0
    while at < len(every):
        line = every[at]
        stripped = line.strip()
        following = every[at + 1].strip() if at + 1 < len(every) else ""
        google = _GOOGLE.fullmatch(stripped)
        ruled = bool(stripped) and _UNDERLINE.fullmatch(following) is not None and stripped[0].isalpha()
        if ruled or google:
            yield title, part
            title, part = (stripped.rstrip(":"), []) if ruled else (google[1] if google else "", [])
            base = None if ruled else _indent(line)
            at += 2 if ruled else 1
            continue
        if base is not None and stripped and _indent(line) <= base:
            yield title, part
            title, part, base = "", [], None
        if not _UNDERLINE.fullmatch(stripped):
            part.append(line)
        at += 1
    yield title, part


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Prose unwrapped to one line a paragraph; items of lists stay apart; examples keep their lines."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            if (
                block
                and re.match(r"\s*(?:[-*+•]|\d+[.)]|:\w+[^:]*:)\s", line)
                and not block[0].lstrip().startswith(">>>")
            ):
                yield from _paragraph(block)
                block = []
            block.append(line)
        elif block:
            yield from _paragraph(block)
            block = []


def _paragraph(block: list[str]) -> Iterator[str]:
    if block[0].lstrip().startswith((">>>", "...")):
        text = "\n".join(line.strip() for line in block if line.lstrip().startswith((">>>", "...")))
        if len(block) <= 8 and text.isascii():
            yield re.sub(r"\s*# doctest:.*", "", text)
        return
    text = " ".join(" ".join(line.split()) for line in block)
    text = plain(text)
    if readable(text):
        yield text


_LETTERS = dict.fromkeys(map(ord, string.ascii_letters + " "))
_ODD = dict.fromkeys(map(ord, "|+=<>{}[]^_~#@$/*-"))


def readable(text: str) -> bool:
    """Words rather than formulas, tables, code or drawings."""
    if len(text) < 3 or "\\" in text or ("http" in text and len(text) < 120):
        return False
    letters = len(text) - len(text.translate(_LETTERS))
    odd = len(text) - len(text.translate(_ODD))
    return letters >= 0.78 * len(text) and odd <= 0.07 * len(text) and not re.search(r"[-=_*~.]{4}|\|.*\||  ", text)


def _entries(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Parameters: ``x : type`` with an indented text, or ``x (type): text``."""
    filled = [line for line in lines if line.strip()]
    base = min((_indent(line) for line in filled), default=0)
    name, parts = "", list[str]()
    many: list[tuple[str, list[str]]] = []
    for line in filled:
        if _indent(line) == base:
            if name:
                many.append((name, parts))
            found = re.match(r"\s*[-*]?\s*[`*]*([\w.]+(?:, ?[\w.]+)*)[`*]*\s*(?:\(.*?\))?\s*(?:(:)\s*(.*))?$", line)
            name = found[1] if found else ""
            google = found is not None and re.match(r"\s*[-*]?\s*[`*]*[\w.]+[`*]*(\s*\(.*\))?:\s", line)
            parts = [found[3]] if google and found and found[3] else []
        elif name:
            parts.append(line)
    if name:
        many.append((name, parts))
    for name, parts in many:
        text = plain(" ".join(" ".join(p.split()) for p in parts))
        text = first_sentence(text)[0]
        if text and readable(text):
            yield name, text


def _returned(lines: list[str]) -> str:
    """The first sentence about what is returned: numpy's indented text, or Google's line after its type."""
    filled = [line for line in lines if line.strip()]
    if not filled:
        return ""
    base = min(_indent(line) for line in filled)
    deeper = [line for line in filled[1:] if _indent(line) > base]
    typed = deeper and _indent(filled[0]) == base and not filled[0].rstrip().endswith((".", ","))
    text = plain(" ".join(" ".join(p.split()) for p in (deeper if (typed and ":" in filled[0]) or typed else filled)))
    text = re.sub(r"^[\w.\[\], |]{1,30}:\s+(?=[A-Z])", "", text)
    text = first_sentence(text)[0]
    return text if readable(text) else ""


_SENTENCE_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)(?<!\bcf)(?<!\bal)(?<!\bFig)(?<!\bEq)[.!?](?=\s+[A-Z(\"']|$)"
)


def first_sentence(text: str) -> tuple[str, str]:
    """(the first sentence, what follows it)."""
    found = _SENTENCE_END.search(text)
    if found is None:
        return text.strip(), ""
    return text[: found.end()].strip(), text[found.end() :].strip()


_UNFINISHED = re.compile(  # a last word that something has to follow
    r"\b(by|as|with|of|is|are|the|a|an|to|for|where|and|or|"
    r"from|in|if|than|that|at|on|be|see|like|into)\.?$",
    re.I,
)


def is_sentence(text: str, fewest: int = 4, most: int = 30) -> bool:
    """An English sentence of plain words: what may be a target or an answer."""
    words = text.split()
    if not (fewest <= len(words) <= most) or not text[0].isalpha() or not text.isascii():
        return False
    if re.search(r"[\\{}<>|=^~@#$\[\]*`]|::|https?:|\.\.|--|\bTODO\b|\bFIXME\b|\b_\w", text) or text.count(
        "("
    ) != text.count(")"):
        return False
    if _UNFINISHED.search(text) or text.count('"') % 2 or text[-1] in ":,;(" or re.match(r"\w+\.\w+|\w+\(", words[0]):
        return False
    return sum(c.isalpha() or c == " " for c in text) >= 0.85 * len(text)
