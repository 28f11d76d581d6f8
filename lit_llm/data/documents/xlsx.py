"""Excel files (.xlsx, .xlsm): a section for each sheet, a line for each row, its cells as they are shown.

Rows stay rows, with cells apart, as tables do in every kind of document: "header: value" would repeat the headers in
each row, and guess which row they are. What a formula gave when the file was saved is read; nothing is computed.
"""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from datetime import date, datetime, time, timedelta
from typing import Any

from lit_llm.data.documents.package import Package, broken
from lit_llm.data.documents.parts import Part, one_line, row


def read_xlsx(data: bytes) -> list[Part]:
    """Raises Unreadable."""
    import openpyxl

    package = Package(data)
    for name in package.names:
        if name.endswith((".xml", ".rels")) and b"<!" in package.read(name, 4096):
            package.xml(name)  # refuses what declares entities
    parts: list[Part] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parts that are not read: charts, rules of validation
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
            for sheet in book.worksheets:
                if sheet.sheet_state != "visible":
                    continue
                sheet.reset_dimensions()  # what a file says of its size may be wrong
                lines = [line for line in (row(map(shown, cells)) for cells in sheet.iter_rows()) if line]
                if lines:
                    title = one_line(sheet.title)
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
    return parts


def shown(cell: Any) -> str:
    """A cell as a person sees it, but for a currency's sign and rounding: no digit is lost."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        if not math.isfinite(value):
            return ""
        percent = "%" in (cell.number_format or "")
        text = format(value * 100 if percent else value, ".15g")
        return f"{text}%" if percent else text
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ", "seconds")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, str | timedelta) else one_line(str(value))
