"""Documents are read as a person sees them: what is deleted or hidden is gone, numbers have their form, notes are notes."""

# ruff: noqa: E501  (markup stays in one line)

import codecs
import datetime
import io

import openpyxl
import pytest

from lit_llm.data.documents.parts import Unreadable
from lit_llm.data.documents.reader import read
from tests.data.documents import made

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def text_of(kind, data):
    return read(kind, data, "auto")["text"]


def word(body):
    return made.zipped({"word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>"})


def paragraph(text, mark=""):
    return f"<w:p><w:pPr><w:rPr>{mark}</w:rPr></w:pPr><w:r><w:t xml:space='preserve'>{text}</w:t></w:r></w:p>"


def test_deleted_rows_cells_and_ends_of_paragraphs_of_word():
    def cells(*texts, more=""):
        return "".join(f"<w:tc>{more}{paragraph(text)}</w:tc>" for text in texts)

    row, gone = "<w:tr>{}</w:tr>", "<w:trPr><w:del w:id='1'/></w:trPr>"
    table = row.format(cells("Rent", "900") + cells("old", more="<w:tcPr><w:cellDel/></w:tcPr>")) + row.format(
        gone + cells("x", "y")
    )
    end = "<w:del w:id='2'/>"
    body = f"{paragraph('The tenant ', end)}{paragraph('pays ', end)}{paragraph('rent.')}<w:tbl>{table}</w:tbl>{paragraph('Last.', end)}"
    assert text_of(".docx", word(body)) == "The tenant pays rent.\n\nRent | 900\n\nLast."


def test_deleted_text_of_rich_text():
    data = rb"{\rtf1\ansi Old{\deleted  gone{\footnote no}\par more \tab}\deleted x\deleted0  text.\par{\deleted all of it\par}Next\plain .\par}"
    assert text_of(".rtf", data) == "Old text.\n\nNext."


def saved(book):
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (45, "000000", "000045"), (1234567, "000000", "1234567"), (123456789, r"000\-00\-0000", "123-45-6789"),
        (45, "General", "45"), (datetime.timedelta(hours=30), None, "30:00:00"), (1e-7, "General", "0.0000001"),
        (1e-7, "0.00E+00", "1E-07"), (0.125, "0.0%", "12.5%"),
        (447911123456, "General", "447911123456"),
    ],
)  # fmt: skip
def test_a_cell_is_as_it_is_shown(value, form, shown):
    book = openpyxl.Workbook()
    book.active["A1"] = value
    if form:
        book.active["A1"].number_format = form
    assert text_of(".xlsx", saved(book)) == f"# Sheet\n\n{shown}"


def test_hidden_rows_and_columns_are_left_out_and_formulas_without_a_value_are_told():
    book = openpyxl.Workbook()
    for values in (["a", "b", "c"], ["no", "no", "no"], ["d", "e", "f"], ["=1+1"]):
        book.active.append(values)
    book.active.row_dimensions[2].hidden = book.active.column_dimensions["B"].hidden = True
    found = read(".xlsx", saved(book), "auto")
    assert found["text"] == "# Sheet\n\na | c\nd | f"
    assert found["warnings"] == ["1 formulas have no saved value (Sheet!A4): open it in Excel and save it"]
    book = openpyxl.Workbook()
    book.active["A1"] = "=1+1"
    with pytest.raises(Unreadable, match="no text in it; 1 formulas have no saved value"):
        read(".xlsx", saved(book), "auto")


BOMB = '<?xml version="1.0"{}?>{}<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'


@pytest.mark.parametrize(
    "content",
    [
        BOMB.format("", " " * 9000), BOMB.format("", f"<!--{'x' * 9000}-->"),
        BOMB.format(' encoding="UTF-16"', "").encode("utf-16"),
        codecs.BOM_UTF16_BE + BOMB.format("", " " * 9000).encode("utf-16-be"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["xl/workbook.xml", "xl/book.dat"])
def test_a_doctype_is_found_wherever_it_stands_and_in_every_encoding(name, content):
    with pytest.raises(Unreadable) as error:
        read(".xlsx", made.zipped({name: content}), "auto")
    assert error.value.reason == "document_bomb"


def test_notes_of_a_book_are_written_as_those_of_word():
    reference = '<a epub:type="noteref" href="{}">{}</a>'
    one = (
        f"<h1>One</h1><p>The tenant<sup>{reference.format('#n1', '1')}</sup> pays{reference.format('end.xhtml#e1', '[2]')}.</p>"
        f"<h2>Two</h2><p>Again{reference.format('#n1', '1')}, and {reference.format('#lost', '9')}.</p>"
        '<aside epub:type="footnote" id="n1" hidden><p>1. Or who lives there. <a href="#r">↩</a></p></aside>'
    )
    end = '<h1>Notes</h1><ol><li id="e1"><p>In <i>advance</i>. <a role="doc-backlink" href="#x">back</a></p></li></ol><p>End.</p>'
    assert text_of(".epub", made.epub({"one": one, "end": end})) == (
        "# One\n\nThe tenant[^1] pays[^2].\n\n[^1]: Or who lives there.\n[^2]: In advance.\n\n"
        "## Two\n\nAgain[^1], and 9.\n\n[^1]: Or who lives there.\n\n# Notes\n\nEnd."
    )
