"""What comes out of each kind of document, against what a person reads there."""

# ruff: noqa: E501  (markup stays in one line)

import datetime
import io

import docx
import openpyxl
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from lit_llm.data.documents.parts import Unreadable
from lit_llm.data.documents.reader import read
from tests.data.documents import made

ARABIC = "اتفق الطرفان على دفع الإيجار (900 ريال) في أول كل شهر"
ARABIC_END = "ويسري العقد من 2024 إلى 2026."


def text_of(kind, data, encoding="auto"):
    return read(kind, data, encoding)["text"]


def names_of(kind, data):
    return [name for _, name in read(kind, data, "auto")["parts"]]


def saved(document):
    data = io.BytesIO()
    document.save(data)
    return data.getvalue()


# PDF

LEFT = (
    "The tenant pays the rent at the begin-",
    "ning of each month. A payment that is",
    "late by thirty days ends the contract.",
)
RIGHT = (
    "The landlord keeps the house in good",
    "repair. A well-known list of what that",
    "means is part of the contract and well-",
    "known to both.",
)
TABLE = (("Item", "Price", "Due"), ("Rent", "900", "1 May"), ("Deposit", "1,800", "1 June"))
FRAME = [(60, 810, 8, "Model contract, edition 2024")]


def test_a_pdf_of_two_columns_a_table_and_running_headers_is_read_as_a_person_reads_it():
    first = [
        *FRAME, (290, 30, 8, "Page 1 of 2"), (60, 760, 18, "Rental contract"),
        *made.lines(310, 720, RIGHT), *made.lines(60, 720, LEFT),
        *[(x, 600 - 14 * line, 10, cell) for line, cells in enumerate(TABLE) for x, cell in zip((60, 200, 300), cells, strict=True)],
        (60, 500, 10, "Both sign below, and each keeps one of the two copies of the contract, which the"),
    ]  # fmt: skip
    second = [*FRAME, (60, 760, 10, "clerk numbers."), (60, 730, 10, "It is dated."), (290, 30, 8, "Page 2 of 2")]
    found = read(".pdf", made.pdf([first, second]), "auto")
    assert found["text"] == (
        "Model contract, edition 2024\n\nRental contract\n\n"
        "The tenant pays the rent at the beginning of each month. A payment that is late by thirty days ends the "
        "contract.\n\n"
        "The landlord keeps the house in good repair. A well-known list of what that means is part of the contract and "
        "well-known to both.\n\n"
        "Item | Price | Due\nRent | 900 | 1 May\nDeposit | 1,800 | 1 June\n\n"
        "Both sign below, and each keeps one of the two copies of the contract, which the clerk numbers.\n\n"
        "It is dated."
    )
    (begin, one), (page, two) = found["parts"]
    assert (begin, one, two) == (0, "page 1", "page 2") and found["text"][page:].startswith("clerk numbers.")


def test_a_number_that_a_sentence_goes_on_with_begins_no_item():
    sentence = (
        "The rent of the whole house, with its garden and the cellar, is",
        "355. It is due on the first. It is for:",
    )
    items = ("1. the rent of the whole house, with its garden, the cellar and", "2. the heating", "· light")
    page = [*made.lines(60, 700, sentence), *made.lines(60, 676, items)]
    assert text_of(".pdf", made.pdf([page])).split("\n\n") == [" ".join(sentence), *items]
    hanging = [(60, 700, 10, "1. " + sentence[0]), (72, 688, 10, sentence[0]), (60, 676, 10, "2. end")]
    assert text_of(".pdf", made.pdf([hanging])).split("\n\n") == [f"1. {sentence[0]} {sentence[0]}", "2. end"]


def test_arabic_in_a_pdf_is_put_into_the_order_it_is_read():
    page = [*made.words(500, 700, ARABIC, 12), *made.words(500, 684, ARABIC_END, 12)]
    assert text_of(".pdf", made.pdf([page])) == f"{ARABIC} {ARABIC_END}"


def test_letters_that_are_shown_as_forms_in_a_word_become_letters():
    forms = "\ufefb\ufe8e\ufe91\ufe97\ufb01"  # lam with alef, alef, beh and teh as they look at their places; fi
    assert text_of(".pdf", made.pdf([[(100, 700, 12, forms[:4][::-1])]])) == "لاابت"
    assert text_of(".pdf", made.pdf([[(100, 700, 12, f"{forms[4]}nd")]])) == "find"


LOCK = f"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{'ab' * 32}> /U <{'cd' * 32}> >> /ID [<00> <00>]"


@pytest.mark.parametrize(
    ("data", "reason", "what"),
    [
        (made.pdf([[], []], image=True), "no_text_layer", "2 pages of images without text, as scanned"),
        (made.pdf([[]]), "empty_text", "no text on its 1 page"),
        (made.pdf([[(9, 9, 9, "text")]])[:200], "broken_document", "broken"),
        (b"no document", "broken_document", "no .pdf file by its content, but a text; rename it to .txt"),
        (made.pdf([[(9, 9, 9, "text")]], trailer=LOCK), "encrypted", "encrypted"),
    ],
)  # fmt: skip
def test_a_pdf_without_text_says_why(data, reason, what):
    with pytest.raises(Unreadable, match=what) as error:
        read(".pdf", data, "auto")
    assert error.value.reason == reason


# Word


def test_a_word_document_gives_headings_lists_tables_numbers_and_notes():
    document = docx.Document()
    document.add_heading("Rental contract", 1)
    document.add_paragraph("The tenant pays.")
    for item in ("rent", "heating"):
        document.add_paragraph(item, style="List Bullet")
    table = document.add_table(rows=2, cols=3)
    for place, text in enumerate(("Item", "Price", "", "Rent\nof May", "900", "")):
        table.cell(place // 3, place % 3).text = text
    document.add_heading("العقد", 2)
    document.add_paragraph("first", style="List Number")
    document.add_paragraph("second", style="List Number")
    changed = document.add_paragraph("يدفع المستأجر الإيجار")
    for run in ("<w:del {}><w:r><w:delText>gone</w:delText></w:r></w:del>", "<w:ins {}><w:r><w:t>.</w:t></w:r></w:ins>",
                "<w:r {}><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r>", '<w:r {}><w:footnoteReference w:id="7"/></w:r>'):  # fmt: skip
        changed._p.append(parse_xml(run.format(nsdecls("w"))))
    document.sections[0].header.paragraphs[0].text = "on every page"
    data = made.with_member(
        saved(document),
        "word/footnotes.xml",
        f'<w:footnotes {nsdecls("w")}><w:footnote w:id="7"><w:p><w:r><w:t>Or who lives there.</w:t></w:r></w:p></w:footnote></w:footnotes>',
    )
    assert text_of(".docx", data) == (
        "# Rental contract\n\nThe tenant pays.\n\n- rent\n- heating\n\nItem | Price\nRent of May | 900\n\n"
        "## العقد\n\n1. first\n2. second\n\nيدفع المستأجر الإيجار.[^1]\n\n[^1]: Or who lives there."
    )
    assert names_of(".docx", data) == ["section Rental contract", "section العقد"]


# Pages of the web

BODY = (
    "<nav><a href=/>Home</a> <a href=/b>Products</a></nav><header>Shop now</header><main><h1>Rental contract</h1>"
    "<p>The <b>tenant</b> pays the rent at the beginning of each month, in advance, to the account that the landlord names."
    "</p><h2>Größe</h2><p>The flat in the Königstraße has four rooms, a kitchen, two baths and a cellar below the house.</p>"
    "<table><tr><th>Item</th><th>Price</th></tr><tr><td>Rent</td><td>900</td></tr></table>"
    "<ul><li>the first point of it</li><li>the second point of it</li></ul></main><aside>Related: ten other flats</aside>"
    "<footer>Imprint, cookies</footer><script>var x = 1</script>"
)
MAIN = (
    "# Rental contract\n\nThe tenant pays the rent at the beginning of each month, in advance, to the account that the "
    "landlord names.\n\n## Größe\n\nThe flat in the Königstraße has four rooms, a kitchen, two baths and a cellar below the "
    "house.\n\nItem | Price\nRent | 900\n\n- the first point of it\n- the second point of it"
)


@pytest.mark.parametrize(
    ("head", "written", "told"),
    [
        ("<meta charset=iso-8859-1>", "latin-1", "cp1252"),  # as the web means it
        ('<meta http-equiv="Content-Type" content="text/html; charset=utf-8">', "utf-8", ""),
        ("<meta charset=iso-8859-1>", "utf-8", ""),  # what is UTF-8 is UTF-8, whatever it says
        ("", "utf-8", ""),
        ("", "cp1252", "cp1252"),
    ],
)
def test_a_page_gives_its_main_text_without_menus_in_its_own_encoding(head, written, told):
    page = f"<html><head>{head}<title>x</title></head><body>{BODY}</body></html>".encode(written)
    found = read(".html", page, "auto")
    assert (found["text"], found["encoding"]) == (MAIN, told)
    assert [name for _, name in found["parts"]] == ["section Rental contract", "section Größe"]


def test_a_short_page_gives_all_its_text():
    assert text_of(".html", b"<p>Short <b>page</b>.<br>Two lines.") == "Short page.\nTwo lines."
    arabic = f"<html><head><meta charset=windows-1256></head><body><p>{ARABIC}</body></html>".encode("cp1256")
    assert text_of(".html", arabic) == ARABIC


# The others


def test_a_book_gives_its_chapters_in_the_order_of_its_spine():
    data = made.epub(
        {"z": "<h1>One</h1><p>First <i>words</i>.</p>", "a": f"<p>{ARABIC}</p><ol><li>x</li><li>y</li></ol>"}
    )
    assert text_of(".epub", data) == f"# One\n\nFirst words.\n\n{ARABIC}\n\n1. x\n2. y"
    assert names_of(".epub", data) == ["section One", "chapter 2"]


def test_open_document_texts_sheets_and_slides():
    cell = "<table:table-cell{}><text:p>{}</text:p></table:table-cell>"
    twice = cell.format(' table:number-columns-repeated="2"', "x")
    to_the_edge = '<table:table-cell table:number-columns-repeated="16000"/>'
    empty = '<table:table-row table:number-rows-repeated="1000000"><table:table-cell/></table:table-row>'
    rows = f"<table:table-row>{cell.format('', 'Item')}{twice}{to_the_edge}</table:table-row>{empty}"
    body = (
        '<text:tracked-changes><text:p>gone</text:p></text:tracked-changes><text:h text:outline-level="2">Payment</text:h>'
        "<text:p>The<text:s/>tenant<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>Or who lives "
        f"there.</text:p></text:note-body></text:note> pays.</text:p><text:list><text:list-item><text:p>{ARABIC}</text:p>"
        f"<text:list><text:list-item><text:p>monthly</text:p></text:list-item></text:list></text:list-item></text:list>"
    )
    text = made.odf(f"<office:text>{body}<table:table>{rows}</table:table></office:text>")
    assert text_of(".odt", text) == (
        f"## Payment\n\nThe tenant[^1] pays.\n\n- {ARABIC}\n  - monthly\n\nItem | x | x\n\n[^1]: Or who lives there."
    )
    sheet = made.odf(f'<office:spreadsheet><table:table table:name="Costs">{rows}</table:table></office:spreadsheet>')
    assert text_of(".ods", sheet) == "# Costs\n\nItem | x | x" and names_of(".ods", sheet) == ["sheet Costs"]
    frame = '<draw:frame presentation:class="{}"><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>'
    page = f"<draw:page>{frame.format('title', 'Plan')}{frame.format('outline', 'rent')}<presentation:notes>{frame.format('notes', 'slowly')}</presentation:notes></draw:page>"
    slides = made.odf(f"<office:presentation>{page}</office:presentation>")
    assert text_of(".odp", slides) == "# Plan\n\nrent\n\nNotes: slowly" and names_of(".odp", slides) == ["slide 1"]


def test_slides_give_title_points_and_notes_in_the_order_they_are_shown():
    data = made.pptx([("Plan", ["rent", "heating"], "Say it slowly."), ("الخطة", [ARABIC], "")])
    assert text_of(".pptx", data) == f"# Plan\n\n- rent\n- heating\n\nNotes: Say it slowly.\n\n# الخطة\n\n{ARABIC}"
    assert names_of(".pptx", data) == ["slide 1", "slide 2"]


def test_a_workbook_gives_a_line_for_each_row():
    book = openpyxl.Workbook()
    costs = book.active
    costs.title = "Costs"
    for values in (
        ["Item", "Price", "Due", "Share"],
        ["Rent", 900.5, datetime.datetime(2024, 5, 1), 0.1],
        [],
        ["Heating", 120, None, None],
    ):
        costs.append(values)
    costs["D2"].number_format = "0%"
    book.create_sheet("بيانات").append([ARABIC, True])
    hidden = book.create_sheet("Hidden")
    hidden.append(["x"])
    hidden.sheet_state = "hidden"
    data = saved(book)
    assert text_of(".xlsx", data) == (
        f"# Costs\n\nItem | Price | Due | Share\nRent | 900.5 | 2024-05-01 | 10%\nHeating | 120\n\n# بيانات\n\n{ARABIC} | TRUE"
    )
    assert names_of(".xlsx", data) == ["sheet Costs", "sheet بيانات"]


def test_rich_text_in_the_code_page_of_each_font():
    data = (
        rb"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset178 Arial;}}{\*\generator x;}"
        rb"{\info{\title no}}{\header on every page}\pard\outlinelevel0 Payment\par\pard The tenant pays f\'fcr die "
        rb"K\u246?nigstra\'dfe {\uc2\u9731\'3f\'3f}{\footnote\pard Or who \{lives\} there.}.\line {\v hidden}Again.\par"
        rb"\f1\'c7\'e1\'da\'de\'cf\f0\par\u1593 ?\u1602 ?\u1583 ?\u55357?\u56832?\par\trowd\intbl Item\cell Price\cell\row"
        rb"\intbl Rent\cell 900\cell\row\pard End.\par}"
    )
    assert text_of(".rtf", data) == (
        "# Payment\n\nThe tenant pays für die Königstraße ☃[^1].\nAgain.\n\nالعقد\n\nعقد😀\n\nItem | Price\nRent | 900\n\n"
        "End.\n\n[^1]: Or who {lives} there."
    )


# Bad ones

ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;"><!ENTITY f SYSTEM "file:///etc/hostname">]>'
DEEP = "<w:p>" * 3000 + "</w:p>" * 3000


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (".docx", made.zipped({"word/document.xml": f"{ENTITIES}<x><body>&b;</body></x>"}), "document_bomb"),
        (".docx", made.zipped({"word/document.xml": f'<w:document xmlns:w="w"><w:body>{DEEP}</w:body></w:document>'}), "document_bomb"),
        (".docx", made.zipped({"word/document.xml": b" " * 200_000_000}), "document_bomb"),
        (".docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
        (".docx", b"PK\x03\x04 cut", "broken_document"),
        (".odt", made.zipped({"content.xml": f"{ENTITIES}<x><body>&f;</body></x>"}), "document_bomb"),
        (".odt", made.zipped({"META-INF/manifest.xml": "<m><encryption-data/></m>", "content.xml": "<x/>"}), "encrypted"),
        (".xlsx", made.zipped({"xl/workbook.xml": f"{ENTITIES}<x>&b;</x>"}), "document_bomb"),
        (".xlsx", made.zipped({"xl/other.xml": "<x/>"}), "broken_document"),
        (".epub", made.epub({"a": "<p>x</p>"}, locked=True), "encrypted"),
        (".epub", made.epub({"a": "<p>x" + "<b>" * 1000}), "document_bomb"),
        (".rtf", b"{\\rtf1" + b"{" * 1000, "document_bomb"),
        (".rtf", b"plain", "broken_document"),
        (".html", b"<div>" * 5000 + b"x", "document_bomb"),
        (".html", b"<html><body><script>draw()</script></body></html>", "empty_text"),
    ],
)  # fmt: skip
def test_bombs_locked_and_broken_documents_are_refused(kind, data, reason):
    with pytest.raises(Unreadable) as error:
        read(kind, data, "auto")
    assert error.value.reason == reason
