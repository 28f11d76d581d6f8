"""Documents are read as a person sees them: what is deleted or hidden is gone, numbers have their form, notes are notes."""

# ruff: noqa: E501  (markup stays in one line)

import codecs
import datetime
import io
import zipfile

import openpyxl
import pypdf
import pytest
from pypdf import generic

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


def test_text_that_a_style_hides_is_hidden_and_readings_and_boxes_of_word():
    styles = "".join(
        f"<w:style w:type='{kind}' w:styleId='{name}'><w:name w:val='{name}'/>{more}</w:style>"
        for kind, name, more in (
            ("character", "Hidden", "<w:rPr><w:vanish/></w:rPr>"), ("paragraph", "Under", "<w:basedOn w:val='Hidden'/>"),
            ("character", "Shown", "<w:basedOn w:val='Hidden'/><w:rPr><w:vanish w:val='0'/></w:rPr>"),
        )
    )  # fmt: skip
    run = "<w:r><w:rPr><w:rStyle w:val='{}'/></w:rPr><w:t>{}</w:t></w:r>"
    ruby = "<w:r><w:ruby><w:rt><w:r><w:t>toukyou</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>東京</w:t></w:r></w:rubyBase></w:ruby></w:r>"
    signs = "".join(
        f"<w:r><w:sym w:font='{font}' w:char='{code}'/></w:r>"
        for font, code in (("Wingdings", "F0FE"), ("Symbol", "F070"), ("Wingdings", "F04A"))
    )
    body = (
        f"<w:p>{run.format('Hidden', 'no')}{run.format('Shown', 'yes')}{signs}{ruby}</w:p>"
        "<w:p><w:pPr><w:pStyle w:val='Under'/></w:pPr><w:r><w:t>no</w:t></w:r></w:p>"
    )
    data = made.zipped({
        "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
        "word/styles.xml": f"<w:styles {W}>{styles}</w:styles>",
    })  # fmt: skip
    assert text_of(".docx", data) == "yes☑π東京"


def test_boxes_of_open_documents_are_read_once_wherever_they_stand():
    box = "<draw:frame><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>"
    shape = "<draw:custom-shape><text:p>In a shape.</text:p></draw:custom-shape>"
    body = (
        f"<text:h text:outline-level='1'>Head{box.format('Beside it.')}</text:h>"
        f"<text:p>Before{box.format('Outer.' + box.format('Inner.'))} and after.{shape}</text:p>"
    )
    assert text_of(".odt", made.odf(f"<office:text>{body}</office:text>")) == (
        "# Head\n\nBeside it.\n\nBefore and after.\n\nOuter.\n\nInner.\n\nIn a shape."
    )


def test_numbers_of_lists_and_headings_of_open_documents_are_those_that_are_shown():
    def level(number, form, more="", name="list-level-style-number"):
        return f"<text:{name} text:level='{number}' style:num-format='{form}' {more}/>"

    lists = (
        "<text:list-style style:name='L'>" + level(1, "1", "style:num-suffix='.'")
        + level(2, "a", "style:num-prefix='(' style:num-suffix=')'") + level(3, "i", "text:display-levels='3'")
        + "</text:list-style><text:list-style style:name='B'><text:list-level-style-bullet text:level='1'/></text:list-style>"
    )  # fmt: skip
    outline = "<text:outline-style>" + "".join(
        level(n, "1", f"text:display-levels='{n}' style:num-suffix='.'", "outline-level-style") for n in (1, 2)
    )
    names = 'xmlns:style="urn:oasis:names:tc:opendocument:xmlns:style:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
    styles = f"<x {names}>{lists}{outline}</text:outline-style></x>"

    def items(*texts, style="text:style-name='L'", more=""):
        return f"<text:list {style} {more}>{''.join(f'<text:list-item>{text}</text:list-item>' for text in texts)}</text:list>"

    def p(text):
        return f"<text:p>{text}</text:p>"

    deep = items(p("deep"), style="")
    body = (
        "<text:h text:outline-level='1'>One</text:h><text:h text:outline-level='2'>Two</text:h>"
        + items(p("rent") + p("and more"), p("heat") + items(p("gas"), p("oil") + deep, style="")) + p("Then")
        + items(p("water"), more="text:continue-numbering='true'") + items(p("anew")) + items(p("dot"), style="text:style-name='B'")
        + "<text:h text:outline-level='1' text:is-list-header='true'>No</text:h>" + p("x") + "<text:h text:outline-level='1'>Last</text:h>"
    )  # fmt: skip
    data = made.with_member(made.odf(f"<office:text>{body}</office:text>"), "styles.xml", styles)
    assert [line for line in text_of(".odt", data).split("\n") if line] == [
        "# 1. One", "## 1.1. Two", "1. rent", "  and more", "2. heat", "  (a) gas", "  (b) oil", "    2.b.i deep", "Then",
        "3. water", "1. anew", "- dot", "# No", "x", "# 2. Last",
    ]  # fmt: skip


def test_boxes_of_rich_text_come_behind_what_they_stand_in():
    box = rb"{\shp{\*\shpinst\shpleft1{\sp{\sn x}{\sv 1}}{\shptxt \pard One\par\trowd\intbl a\cell b\cell\row}}{\shprslt{\*\do twice}}}"
    text = rb"{\rtf1\ansi Before%b and after.\par\trowd\intbl c%b\cell d\cell\row\pard{\header %b}End.\par}"
    boxed = "One\n\na | b"
    assert text_of(".rtf", text % (box, box, box)) == f"Before and after.\n\n{boxed}\n\nc | d\n\n{boxed}\n\nEnd."


def test_rich_text_begins_in_the_default_font_and_says_unicode_once():
    fonts = rb"{\rtf1\ansi\deff1{\fonttbl{\f0\fcharset178 A;}{\f1\fcharset0 B;}}"
    assert text_of(".rtf", fonts + rb"Gr\'fc\'dfe aus {\upr{K?ln}{\*\ud{K\u246?ln}}}.\par}") == "Grüße aus Köln."


def test_deleted_text_of_rich_text():
    data = rb"{\rtf1\ansi Old{\deleted  gone{\footnote no}\par more \tab}\deleted x\deleted0  text.\par{\deleted all of it\par}Next\plain .\par}"
    assert text_of(".rtf", data) == "Old text.\n\nNext."


def test_filled_fields_and_text_that_was_put_onto_a_page_are_read_where_they_stand():
    page = [(60, 700, 10, "Tenant:"), (60, 650, 10, "It is agreed."), (60, 600, 10, "End.")]
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(made.pdf([page])))
    listed = generic.ArrayObject()
    parent = writer._add_object(generic.DictionaryObject({generic.NameObject("/FT"): generic.NameObject("/Tx")}))
    for kind, place, text, more in (
        ("/Widget", (110, 698, 210, 712), "Brown", {"/Parent": parent}),
        ("/FreeText", (60, 608, 260, 648), "Paid on 3 May", {}),
        ("/Widget", (300, 698, 310, 708), "4", {"/FT": generic.NameObject("/Btn")}),
        ("/FreeText", (60, 500, 160, 514), "hidden", {"/F": generic.NumberObject(2)}),
        ("/Text", (60, 400, 160, 414), "margin", {}),
    ):
        form = generic.DecodedStreamObject()
        form.set_data(f"BT /F1 10 Tf 0 2 Td ({text}) Tj ET".encode())
        box = generic.ArrayObject(map(generic.NumberObject, (0, 0, 100, 14)))
        form.update({generic.NameObject("/Subtype"): generic.NameObject("/Form"), generic.NameObject("/BBox"): box})
        shown = generic.DictionaryObject({generic.NameObject("/N"): writer._add_object(form)})
        rect = generic.ArrayObject(map(generic.NumberObject, place))
        told = {"/Subtype": generic.NameObject(kind), "/Rect": rect, "/AP": shown, **more}
        listed.append(generic.DictionaryObject({generic.NameObject(name): value for name, value in told.items()}))
    writer.pages[0][generic.NameObject("/Annots")] = listed
    assert text_of(".pdf", saved(writer, "write")) == "Tenant: Brown\n\nIt is agreed.\n\nPaid on 3 May\n\nEnd."


def saved(book, save="save"):
    data = io.BytesIO()
    getattr(book, save)(data)
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
    assert found["warnings"] == ["1 formula has no saved value (Sheet!A4): open it in Excel and save it"]
    book = openpyxl.Workbook()
    book.active["A1"] = "=1+1"
    with pytest.raises(Unreadable, match="no text in it; 1 formula has no saved value"):
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


def test_a_book_with_a_broken_spine_is_read_and_what_is_lost_is_told():
    items = "".join(
        f'<item id="{name}" href="{file}" media-type="{kind}"/>'
        for name, file, kind in (
            ("a", "text/a.xhtml", "application/xhtml+xml"), ("b", "text/B.xhtml", "text/x-oeb1-document"),
            ("c", "text/lost.xhtml", "application/xhtml+xml"), ("p", "p.png", "image/png"),
        )
    )  # fmt: skip
    data = made.epub({"a": "<p>One &lt;b&gt; <![CDATA[<c> & d]]>.</p>", "b": "<title/><p>Two<a id='x'/> words.</p>"})

    def with_spine(spine):
        package = '<package xmlns="http://www.idpf.org/2007/opf"><manifest>{}</manifest><spine>{}</spine></package>'
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        return read(".epub", made.zipped(members | {"OPS/book.opf": package.format(items, spine)}), "auto")

    found = with_spine("".join(f'<itemref idref="{name}"/>' for name in ("b", "gone", "p", "c", "a")))
    assert found["text"] == "Two words.\n\nOne <b> <c> & d."
    assert found["warnings"] == ["2 of its chapters are not in it (gone, OPS/text/lost.xhtml)"]
    assert with_spine("")["text"] == "One <b> <c> & d.\n\nTwo words."


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


PARTS = {
    "word/a.htm": "<html><body><h2>From a page</h2><p>Line <b>one</b>.</p></body></html>",
    "word/b.rtf": "{\\rtf1\\ansi From rich text.\\par}",
    "word/c.txt": "From a text.\n",
    "word/d.mht": "MIME-Version: 1.0\nContent-Type: multipart/related; boundary=x\n\n--x\nContent-Type: text/html; charset=utf-8\n"
    "Content-Transfer-Encoding: quoted-printable\n\n<p>From an archived page, f=C3=BCr alle.</p>\n--x--\n",
    "word/e.bin": "\x00\x01\x02",
}


def test_documents_within_a_word_document_are_read_where_they_stand_or_named():
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    inner = word(paragraph("From another document."))
    members = PARTS | {"word/f.docx": inner}
    chunks = "".join(f'<w:altChunk xmlns:r="{relation}" r:id="c{n}"/>' for n in range(len(members) + 1))
    body = f"{paragraph('Before.')}{chunks}{paragraph('Behind.')}"
    related = "".join(
        f'<Relationship Id="c{n}" Type="{relation}/aFChunk" Target="{name.removeprefix("word/")}"/>'
        for n, name in enumerate(members)
    )
    found = read(
        ".docx",
        made.zipped(
            {
                "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
                "word/_rels/document.xml.rels": f"<Relationships>{related}</Relationships>",
                **members,
            }
        ),
        "auto",
    )
    assert found["text"] == (
        "Before.\n\n## From a page\n\nLine one.\n\nFrom rich text.\n\nFrom a text.\n\nFrom an archived page, für alle.\n\n"
        "From another document.\n\nBehind."
    )
    assert [name for _, name in found["parts"]] == ["section From a page"]
    assert found["warnings"] == ["2 embedded documents are not read (e.bin: of the kind .bin; c6: not there)"]


def test_a_word_document_that_holds_itself_ends():
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    inner = word(paragraph("deepest"))
    for depth in range(7):
        body = f'{paragraph(f"depth {depth}")}<w:altChunk xmlns:r="{relation}" r:id="c"/>'
        inner = made.zipped({
            "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
            "word/_rels/document.xml.rels": f'<Relationships><Relationship Id="c" Type="{relation}/aFChunk" Target="i.docx"/></Relationships>',
            "word/i.docx": inner,
        })  # fmt: skip
    found = read(".docx", inner, "auto")
    assert found["text"] == "\n\n".join(f"depth {depth}" for depth in (6, 5, 4, 3, 2))
    assert "documents within each other, deeper than 4" in found["warnings"][0]


def styled(kind, name, more, parent=""):
    based = f' style:parent-style-name="{parent}"' if parent else ""
    return f'<style:style style:name="{name}" style:family="{kind}"{based}>{more}</style:style>'


def test_what_an_open_document_hides_is_hidden():
    gone, back = '<style:text-properties text:display="none"/>', '<style:text-properties text:display="true"/>'
    styles = styled("paragraph", "Gone", gone) + styled("paragraph", "Under", "", "Gone") + styled("text", "G", gone)
    styles += styled("text", "Back", back) + styled("table", "Off", '<style:table-properties table:display="false"/>')
    styles += styled("drawing-page", "Out", '<style:drawing-page-properties presentation:visibility="hidden"/>')

    def document(body):
        return made.odf(body, styles)

    body = (
        '<text:p>The rent <text:span text:style-name="G">secret<text:tab/><text:span text:style-name="Back">is</text:span></text:span> due.</text:p>'
        '<text:p text:style-name="Under">not seen <text:span text:style-name="Back">but this</text:span></text:p>'
        '<text:section text:display="none"><text:p>a hidden section</text:p></text:section>'
        '<text:section text:display="condition" text:is-hidden="true"><text:p>another</text:p></text:section>'
        '<text:section text:display="condition"><text:p>A section.</text:p></text:section>'
        '<text:p>Paid<text:hidden-text text:is-hidden="true">never</text:hidden-text>.</text:p>'
        '<text:p><text:hidden-paragraph text:is-hidden="true"/>a hidden paragraph</text:p>'
    )
    assert text_of(".odt", document(f"<office:text>{body}</office:text>")) == (
        "The rent is due.\n\nbut this\n\nA section.\n\nPaid."
    )
    cells = (
        "<table:table-row{}>"
        + "".join(f"<table:table-cell><text:p>{{}}{n}</text:p></table:table-cell>" for n in range(4))
        + "</table:table-row>"
    )
    columns = '<table:table-column/><table:table-column table:visibility="collapse" table:number-columns-repeated="2"/><table:table-column/>'
    rows = (
        cells.format("", *"aaaa")
        + cells.format(' table:visibility="collapse"', *"bbbb")
        + cells.format(' table:visibility="filter"', *"cccc")
    )
    sheets = f'<table:table table:name="A">{columns}{rows}</table:table><table:table table:name="B" table:style-name="Off">{rows}</table:table>'
    assert text_of(".ods", document(f"<office:spreadsheet>{sheets}</office:spreadsheet>")) == "# A\n\na0 | a3"
    frame = "<draw:frame><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>"
    pages = f'<draw:page>{frame.format("one")}</draw:page><draw:page draw:style-name="Out">{frame.format("two")}</draw:page>'
    assert text_of(".odp", document(f"<office:presentation>{pages}</office:presentation>")) == "one"


def test_a_shape_of_a_slide_that_is_switched_off_is_hidden():
    data = made.pptx([("Plan", ["rent", "secret"], "")])
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name).decode() for name in file.namelist()}
    slide = members["ppt/slides/slide1.xml"]
    assert slide.count("<p:nvSpPr>") == 3 and "<p:cNvPr" not in slide
    off = slide.replace("<p:nvSpPr>", '<p:nvSpPr><p:cNvPr id="1" name="x" hidden="1"/>', 2)  # the number, the points
    assert text_of(".pptx", made.zipped(members | {"ppt/slides/slide1.xml": off})) == "# Plan"
    assert "secret" in text_of(".pptx", data)


def test_what_of_a_page_is_not_read_is_told(monkeypatch):
    from lit_llm.data.documents import pdf_words

    data = made.pdf([[(60, 700 - 20 * n, 10, f"word {n} here") for n in range(5)], [(60, 700, 10, "few words")]])
    assert read(".pdf", data, "auto")["warnings"] == []
    monkeypatch.setattr(pdf_words, "MAX_WORDS", 6)
    found = read(".pdf", data, "auto")
    assert found["warnings"] == ["page 1: of more than 6 words the first are read"]
    assert "word 1 here" in found["text"] and "word 2" not in found["text"] and found["text"].endswith("few words")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (".docx", word(
            "".join(f'<w:p><w:pPr><w:outlineLvl w:val="{level}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>' for level, text in ((0, "Contract"), (1, "Payment")))
            + paragraph("The rent is due.")
        )),
        (".html", b"<html><body><main><h1>Contract</h1><h2>Payment</h2><p>The rent is due.</p></main></body></html>"),
        (".epub", made.epub({"a": "<h1>Contract</h1><h2>Payment</h2><p>The rent is due.</p>"})),
        (".odt", made.odf('<office:text><text:h text:outline-level="1">Contract</text:h><text:h text:outline-level="2">Payment</text:h><text:p>The rent is due.</text:p></office:text>')),
        (".rtf", b"{\\rtf1 {\\pard\\outlinelevel0 Contract\\par}{\\pard\\outlinelevel1 Payment\\par}\\pard The rent is due.\\par}"),
    ],
)  # fmt: skip
def test_a_heading_right_below_the_title_begins_a_section(kind, data):
    found = read(kind, data, "auto")
    assert found["text"] == "# Contract\n\n## Payment\n\nThe rent is due."
    assert [(found["text"][at : at + 4], name) for at, name in found["parts"]] == [
        ("# Co", "section Contract"), ("## P", "section Payment")
    ]  # fmt: skip
