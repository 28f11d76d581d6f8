"""Excel files (.xlsx, .xlsm): a section for each sheet, a line for each row, its cells as they are shown.

Rows stay rows, with cells apart, as tables do in every kind of document: "header: value" would repeat the headers in
each row, and guess which row they are. What a formula gave when the file was saved is read; nothing is computed.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from lxml import etree

from lit_llm.data.documents.package import Package, local
from lit_llm.data.documents.parts import Part, Unreadable, broken, one_line, row
from lit_llm.runtime.counted import counted

# A prolog without a DOCTYPE, in an encoding whose ASCII is ASCII.
_PLAIN_PROLOG = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml(\s+[\w.]+\s*=\s*(\"[\w.:-]*\"|'[\w.:-]*'))*\s*\?>)?\s*<[A-Za-z_]", re.ASCII
)
_ENCODING = re.compile(rb"encoding\s*=\s*[\"']([^\"']*)")
_LIKE_ASCII = re.compile(rb"utf-?8|us-ascii|iso-8859-\d+|windows-125\d", re.IGNORECASE)
_MARKUP = (b"<", b"\0<", b"\0\0\0<", b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff", b"\x4c\x6f\xa7\x94")
_DIGITS = re.compile(r"(?=.*0.*0)[0\-/() ]+")
_NAMED = 5  # cells that a warning names


@dataclass
class _Sheet:
    rows: set[int] = field(default_factory=set)  # hidden ones, from 1
    columns: list[tuple[int, int]] = field(default_factory=list)  # hidden ones, first and last, from 1
    unsaved: list[str] = field(default_factory=list)  # cells with a formula and no value


def read_xlsx(data: bytes) -> tuple[list[Part], list[str]]:
    """Its sheets, and what the user is to be told. Raises Unreadable."""
    import openpyxl

    package = Package(data)
    for name in package.names:
        _check_prolog(package, name)
    parts: list[Part] = []
    unsaved: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts that are not read: charts, rules of validation
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
            for sheet in book.worksheets:
                if sheet.sheet_state != "visible":
                    continue
                sheet.reset_dimensions()  # what a file says of its size may be wrong
                title = one_line(sheet.title)
                hidden = _scan(package.read(sheet._worksheet_path.lstrip("/")))
                unsaved += [f"{title}!{cell}" for cell in hidden.unsaved]
                lines = [line for line in _lines(sheet, hidden) if line]
                if lines:
                    parts.append(Part(f"sheet {title}", f"# {title}\n\n" + "\n".join(lines)))
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        OSError,
        SyntaxError,
    ) as error:
        raise broken(error) from None
    if not unsaved:
        return parts, []
    named = ", ".join(unsaved[:_NAMED]) + (", ..." if len(unsaved) > _NAMED else "")
    formulas = counted(len(unsaved), "formula has", "formulas have")
    told = f"{formulas} no saved value ({named}): open it in Excel and save it"
    if not parts:
        raise Unreadable("empty_text", f"no text in it; {told}")
    return parts, [told]


def _check_prolog(package: Package, name: str) -> None:
    """Refuses a member that declares entities, wherever in its prolog and in whatever encoding."""
    begin = package.read(name, 4096)
    named = name.endswith((".xml", ".rels"))
    if not begin or name.endswith(".vml") or not (named or begin.lstrip().startswith(_MARKUP)):
        return  # drawings of old (.vml) are no XML, and are not parsed
    found = _PLAIN_PROLOG.match(begin)
    said = _ENCODING.search(found[0]) if found else None
    if found is None or (said is not None and not _LIKE_ASCII.fullmatch(said[1])):
        package.xml(name)


def _scan(data: bytes) -> _Sheet:
    """What openpyxl does not say of a sheet that it reads row by row."""
    found = _Sheet()
    number = 0
    events = etree.iterparse(
        io.BytesIO(data), tag=("{*}row", "{*}col"), resolve_entities=False, no_network=True, load_dtd=False
    )
    for _, element in events:
        hidden = element.get("hidden") in ("1", "true")
        if local(element) == "col":
            if hidden:
                found.columns.append((int(element.get("min") or 0), int(element.get("max") or 0)))
            continue
        number = int(element.get("r") or number + 1)
        if hidden:
            found.rows.add(number)
        else:
            for formula in element.iter("{*}f"):
                cell = formula.getparent()
                text = cell.get("t") == "str"  # which may be an empty one
                if not any(local(one) == "is" or (local(one) == "v" and (one.text or text)) for one in cell):
                    found.unsaved.append(cell.get("r") or f"row {number}")
        element.clear()
    return found


def _lines(sheet: Any, hidden: _Sheet) -> list[str]:
    found = []
    for number, cells in enumerate(sheet.iter_rows(min_row=1), start=1):
        if number in hidden.rows:
            continue
        for first, last in hidden.columns:
            cells = [*cells[: first - 1], *(None,) * len(cells[first - 1 : last]), *cells[last:]]
        found.append(row(shown(cell) for cell in cells if cell is not None))
    return found


def shown(cell: Any) -> str:
    """A cell as a person sees it, but for a currency's sign and rounding: no digit is lost."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        return _number(value, cell.number_format or "")
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "seconds")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration(value)
    return value if isinstance(value, str) else one_line(str(value))


def _number(value: float, form: str) -> str:
    if not math.isfinite(value):
        return ""
    digits = form.replace("\\", "").replace('"', "")
    if _DIGITS.fullmatch(digits) and value >= 0 and value == int(value):
        return _in_places(str(int(value)), digits)
    percent = "%" in form
    scaled = value * 100 if percent else value
    text = str(scaled) if isinstance(scaled, int) else format(scaled, ".15g")
    if "e" in text and "E" not in form and 1e-30 < abs(value) < 1e30:
        text = format(Decimal(text), "f")
    return f"{text}%" if percent else text.upper()


def _in_places(digits: str, form: str) -> str:
    """A number in a form of noughts, as those of files and telephones have: 45 in 000000 is 000045."""
    rest = list(digits.zfill(form.count("0")))
    found = []
    first = form.index("0")
    for at in range(len(form) - 1, -1, -1):
        if form[at] != "0":
            found.append(form[at])
        elif at == first:
            found.append("".join(rest))
        else:
            found.append(rest.pop())
    return "".join(reversed(found))


def _duration(value: timedelta) -> str:
    """Hours, minutes and seconds: a day and six hours are 30:00:00."""
    sign = "-" if value < timedelta() else ""
    seconds = abs(value)
    minutes, rest = divmod(seconds.days * 86400 + seconds.seconds, 60)
    part = f".{seconds.microseconds:06d}".rstrip("0") if seconds.microseconds else ""
    return f"{sign}{minutes // 60}:{minutes % 60:02}:{rest:02}{part}"
