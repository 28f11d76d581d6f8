"""PowerPoint files (.pptx, ECMA-376): the slides in order, each with its title, text, tables and notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lit_llm.data.documents.package import Package, attribute, child, local
from lit_llm.data.documents.parts import Part, broken, one_line, paragraphs, row

_FRAME = {"sldNum", "dt", "ftr", "hdr", "sldImg"}  # placeholders of what is on every slide


def read_pptx(data: bytes) -> list[Part]:
    """Raises Unreadable."""
    package = Package(data)
    main = next((to for kind, to in package.relations("").values() if kind == "officeDocument"), "ppt/presentation.xml")
    root = package.xml(main)
    if root is None:
        raise broken("no slides in it")
    members = package.relations(main)
    parts: list[Part] = []
    order = child(root, "sldIdLst")
    for number, one in enumerate(order if order is not None else (), start=1):
        _, name = members.get(next((v for k, v in one.attrib.items() if k.endswith("}id")), ""), ("", ""))
        slide = package.xml(name)
        if slide is None or attribute(slide, "show") == "0":
            continue
        texts = list(_texts(child(slide, "cSld", "spTree"), slide=True))
        texts.sort(key=lambda text: not text.startswith("# "))  # a title that stands in front of all comes first
        notes = next((to for kind, to in package.relations(name).values() if kind == "notesSlide"), "")
        page = package.xml(notes)
        if page is not None and (said := list(_texts(child(page, "cSld", "spTree"), slide=False))):
            texts.append("Notes: " + "\n".join(said))
        if texts:
            parts.append(Part(f"slide {number}", paragraphs(texts)))
    return parts


def _texts(tree: Any, *, slide: bool) -> Iterator[str]:
    for shape in tree if tree is not None else ():
        name = local(shape)
        if _is_hidden(shape):
            continue
        if name in ("grpSp", "AlternateContent", "Choice"):
            yield from _texts(shape, slide=slide)
        elif name == "sp":
            holder = child(shape, "nvSpPr", "nvPr", "ph")
            kind = (attribute(holder, "type") or "body") if holder is not None else ""
            if kind in _FRAME or (not slide and kind != "body"):
                continue
            lines = list(_paragraphs(child(shape, "txBody"), listed=slide and kind == "body"))
            if kind in ("title", "ctrTitle") and lines:
                yield f"# {one_line(' '.join(lines))}"
            else:
                yield from lines
        elif name == "graphicFrame":
            for table in (one for one in shape.iter() if local(one) == "tbl"):
                yield "\n".join(filter(None, (row(_cells(one)) for one in table if local(one) == "tr")))


def _is_hidden(shape: Any) -> bool:
    """Whether a shape, or a group of them, is switched off in the list of what is on its slide."""
    about = next((child(one, "cNvPr") for one in shape if local(one).startswith("nv")), None)
    return about is not None and attribute(about, "hidden") in ("1", "true")


def _cells(line: Any) -> Iterator[str]:
    for cell in line:
        if local(cell) == "tc":
            yield " ".join(_paragraphs(child(cell, "txBody"), listed=False))


def _paragraphs(body: Any, *, listed: bool) -> Iterator[str]:
    """The paragraphs of a shape; those of a slide's body are points, by their level."""
    texts: list[tuple[int, str]] = []
    for one in body if body is not None else ():
        if local(one) == "p":
            level = attribute(child(one, "pPr"), "lvl") if child(one, "pPr") is not None else None
            text = "".join(_runs(one)).strip()
            if text:
                texts.append((int(level) if level and level.isdigit() else 0, text))
    points = listed and len(texts) > 1
    for depth, text in texts:
        yield f"{'  ' * min(depth, 9)}- {text}" if points else text


def _runs(paragraph: Any) -> Iterator[str]:
    for one in paragraph:
        name = local(one)
        if name == "br":
            yield "\n"
        elif name in ("r", "fld"):
            text = child(one, "t")
            yield (text.text or "") if text is not None else ""
