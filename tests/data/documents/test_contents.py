"""A file that is of another kind than its name says, or has nothing in it: what is said is what it is."""

import gzip
import io
import re
import zipfile

import docx
import openpyxl
import pytest

from lit_llm.data.documents.contents import kind_seen
from lit_llm.data.documents.parts import Unreadable
from lit_llm.data.documents.reader import read
from lit_llm.data.file_rows import read_rows
from lit_llm.data.options import DataOptions
from lit_llm.data.reading import read_records
from lit_llm.data.sources import resolve
from lit_llm.errors import UserError
from tests.data.documents import made


def saved(document):
    data = io.BytesIO()
    document.save(data)
    return data.getvalue()


DOCX, XLSX = saved(docx.Document()), saved(openpyxl.Workbook())
FILES = {
    ".pdf": made.pdf([[(9, 9, 9, "text")]]),
    ".docx": DOCX,
    ".xlsx": XLSX,
    ".pptx": made.pptx([("Plan", ["rent"], "")]),
    ".odt": made.odf("<office:text><text:p>rent</text:p></office:text>"),
    ".rtf": b"{\\rtf1 rent\\par}",
    ".html": b"\xef\xbb\xbf<!-- x -->\n<!DOCTYPE html><p>rent",
    ".txt": "Die Miete: 900 €".encode("cp1252"),
    ".jsonl": b'{"text": "rent"}\n',
    ".zip": made.zipped({"a.txt": "rent"}),
    ".png": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("ending", FILES)
def test_a_file_is_seen_by_its_content(ending):
    seen = kind_seen(FILES[ending])
    assert seen is not None and seen.ending == ending
    assert kind_seen(b"\0\x01\x02 no text") is None and kind_seen(b"") is None


def test_a_word_document_that_holds_a_workbook_is_a_word_document():
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as file:
        file.writestr("word/embeddings/costs.xlsx", XLSX)
        file.writestr("word/document.xml", "<x/>")
    assert kind_seen(found.getvalue()).ending == ".docx"


@pytest.mark.parametrize("kind", [".pdf", ".docx", ".html", ".epub", ".odt", ".pptx", ".xlsx", ".rtf"])
def test_an_empty_document_says_that_it_is_empty(kind):
    for data, said in ((b"", "empty: it has no byte"), (b"\0" * 4096, "nothing but NUL bytes")):
        with pytest.raises(Unreadable, match=said) as error:
            read(kind, data, "auto")
        assert error.value.reason == "empty_file"


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        (".docx", ".pdf", "no .docx file by its content, but a PDF; rename it to .pdf"),
        (".docx", ".rtf", "but RTF; rename it to .rtf"),
        (".docx", ".html", "but a page of the web; rename it to .html"),
        (".docx", ".txt", "but a text; rename it to .txt"),
        (".docx", ".xlsx", "but an Excel workbook; rename it to .xlsx"),
        (".xlsx", ".docx", "but a Word document; rename it to .docx"),
        (".odt", ".docx", "but a Word document; rename it to .docx"),
        (".epub", ".odt", "but an OpenDocument text; rename it to .odt"),
        (".pptx", ".zip", "but a zip file; rename it to .zip"),
        (".pdf", ".png", "but a picture; its text must be recognized first"),
        (".rtf", ".docx", "but a Word document; rename it to .docx"),
        (".html", ".docx", "but a Word document; rename it to .docx"),
    ],
)
def test_a_renamed_document_says_what_it_is(kind, content, said):
    with pytest.raises(Unreadable, match=said) as error:
        read(kind, FILES[content], "auto")
    assert error.value.reason == "broken_document"


def test_a_document_that_was_cut_off_is_called_so_and_nothing_else():
    for data in (DOCX[:-400], DOCX[: len(DOCX) // 2]):
        with pytest.raises(Unreadable, match=r"broken \(its end is not there, as of a copy that was cut off\)"):
            read(".docx", data, "auto")


def test_a_piece_of_a_page_is_a_page():
    assert read(".html", b'{% "x" %}<p>The rent is due.</p>', "auto")["text"].endswith("The rent is due.")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("notes", FILES[".txt"], "it is a text by its content; rename it to .txt"),
        ("contract", FILES[".pdf"], "it is a PDF by its content; rename it to .pdf"),
        ("letter.doc", FILES[".rtf"], "it is RTF by its content; rename it to .rtf"),
        ("letter.doc", b"", "it is empty: it has no byte"),
        ("letter.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99, "Word's form before 2007; save it as .docx"),
        ("thing", b"\0\x01", "a name without an ending gets that of what the file is, such as .txt"),
    ],
)
def test_a_file_whose_name_says_too_little_has_a_remedy_alone_and_in_a_folder(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=said):
        read_records(str(tmp_path / name), "texts")
    (tmp_path / "a.txt").write_text("The rent is due.")
    lines = read_records(str(tmp_path), "texts").counts.overview.lines()
    [line] = [line for line in lines if "files not read" in line]
    assert said.removeprefix("it is ") in line


def test_files_without_an_ending_are_one_kind(tmp_path):
    for number in range(30):
        (tmp_path / str(number)).write_text("mail")
    (tmp_path / "a.txt").write_text("The rent is due.")
    counts = read_records(str(tmp_path), "texts").counts
    assert counts.overview.kinds.keys() == {".txt", "without ending"}
    assert counts.overview.warnings() == ["97% OF THE FILES ARE NOT READ: 30 of 31 (30 without ending)"]


OTHERS = {
    "lease.txt": (DOCX, "a Word document by its content; rename it to .docx"),
    "plan.md": (FILES[".pdf"], "a PDF by its content; rename it to .pdf"),
    "fees.zip": (XLSX, "an Excel workbook by its content; rename it to .xlsx"),
    "rent.zip": (FILES[".odt"], "an OpenDocument text by its content; rename it to .odt"),
    "packed.txt": (gzip.compress(b"rent " * 99), "a gzip file by its content; add .gz to its name"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("encoding", ["auto", "latin-1"])
def test_another_kind_of_file_named_as_a_text_or_an_archive_says_what_it_is(tmp_path, name, encoding):
    data, told = OTHERS[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "good.txt").write_text("The lease ends in May.")
    options = DataOptions(encoding=encoding, validation_fraction=0, test_fraction=0)
    with pytest.raises(UserError) as error:
        read_records(str(tmp_path), "texts", options)
    assert f"{name}: {told} (data.on_error=skip" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=re.escape(told)):
        read_records(str(tmp_path / name), "texts", options)


def test_a_workbook_named_zip_in_an_archive_is_named_and_the_others_are_read(tmp_path):
    (tmp_path / "all.zip").write_bytes(made.zipped({"fees.zip": XLSX, "a.txt": "rent"}))
    rows = list(read_rows([one for some in resolve(str(tmp_path)).values() for one in some]))
    assert sorted(getattr(row, "value", "") or row.reason for row in rows) == ["other_kind", "rent"]


def test_texts_that_only_look_like_another_kind_are_read(tmp_path):
    told = {"a.txt": "Rar! said the crow.", "b.txt": "BZh is a mark.", "c.md": "PAR1 and PAR2", "word/d.txt": "rent"}
    (tmp_path / "all.zip").write_bytes(made.zipped(told))
    for name, text in list(told.items())[:3]:
        (tmp_path / name).write_text(text)
    rows = list(read_rows([one for some in resolve(str(tmp_path)).values() for one in some]))
    assert sorted(row.value for row in rows) == sorted([*told.values(), *list(told.values())[:3]])


def test_a_page_named_as_a_text_is_told_of(tmp_path, caplog):
    (tmp_path / "page.txt").write_bytes(FILES[".html"])
    (tmp_path / "about.txt").write_text("<html> begins a page, as <!DOCTYPE html> does."[1:])
    (tmp_path / "page.html").write_bytes(b"<!DOCTYPE html><html><body><p>The rent is due in May.</p></body></html>")
    read_records(str(tmp_path), "texts", DataOptions(validation_fraction=0, test_fraction=0))
    [line] = [one.getMessage() for one in caplog.records if "HTML" in one.getMessage()]
    assert ": page.txt: HTML by its content" in line and "rename to .html" in line
