"""Folders of documents: processes that read them, what is kept, bad ones told at once, and where a piece is from."""

import json
import logging
import sys

import pytest

from lit_llm.data import raw_text
from lit_llm.data.documents import reading, worker, workers
from lit_llm.data.file_rows import read_rows
from lit_llm.data.options import DataOptions
from lit_llm.data.reading import read_records
from lit_llm.data.row_errors import RowError
from lit_llm.errors import UserError
from tests.data.documents import made

PAGE = b"<html><body><p>%s</p></body></html>"


def write(folder, name, content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def pages(*texts):
    return made.pdf([[(60, 700, 10, text)] for text in texts])


def test_bad_documents_are_told_all_at_once_or_counted_and_the_rest_is_read(tmp_path):
    folder = tmp_path / "texts"
    for number in range(12):
        write(folder, f"scan{number:02}.pdf", made.pdf([[]], image=True))
    write(folder, "locked.epub", made.epub({"a": "<p>x</p>"}, locked=True))
    write(folder, "broken.docx", b"no zip file")
    write(folder, "letters.txt", "Zürich ".encode() * 20 + b"\xfc")
    write(folder, "good.html", PAGE % b"A page that is read.")
    with pytest.raises(UserError) as error:
        read_records(str(folder), "texts", DataOptions(cache_dir=tmp_path / "cache"))
    lines = str(error.value).splitlines()
    assert (
        lines[0]
        == f"data.path={folder}: 15 of 16 files cannot be read (data.on_error=skip counts such files and goes on)"
    )
    assert (
        sum(f"{folder}/scan" in line for line in lines) == 10
        and sum("recognize it (OCR)" in line for line in lines) == 1
    )
    assert any(line.startswith("no_text_layer: 12, the first 10: ") for line in lines)
    for name in (
        "locked.epub: its chapters are encrypted",
        "broken.docx: no .docx file by its content, but a text",
        "letters.txt:1: byte 161 (0xfc)",
    ):
        assert sum(f"{folder}/{name}" in line for line in lines) == 1
    options = {"on_error": "skip", "max_error_rate": 1.0, "validation_fraction": 0, "test_fraction": 0}
    records = read_records(str(folder), "texts", DataOptions(cache_dir=tmp_path / "cache", **options))
    assert [record.text for record in records["train"]] == ["A page that is read."]
    assert records.counts.skipped == {"no_text_layer": 12, "encrypted": 1, "broken_document": 1, "invalid_utf8": 1}
    told = records.counts.overview.as_dict()["bad"]
    assert {reason: one["number"] for reason, one in told.items()} == records.counts.skipped
    assert len(told["no_text_layer"]["first"]) == 10 and all(one["first"] for one in told.values())
    lines = [line for line in records.counts.overview.lines() if line.startswith("bad, ")]
    assert len(lines) == 4 and lines[0].startswith(f"bad, no_text_layer 12: {folder}/scan")
    assert lines[0].count(f"{folder}/scan") == 3 and " and 9 more: " in lines[0] and "recognize it (OCR)" in lines[0]
    with pytest.raises(UserError, match=r"15 of 16 files are bad, more than .*raise it to go on without them") as error:
        options["max_error_rate"] = 0.2
        read_records(str(folder), "texts", DataOptions(cache_dir=tmp_path / "cache", **options))
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == lines


def test_a_document_that_takes_too_long_or_ends_its_process_is_one_bad_document(tmp_path, monkeypatch):
    """The bounds hold in the process: what reads there is replaced by what loops, fills the memory, or crashes."""
    monkeypatch.setattr(workers, "_PACKAGE", tmp_path / "package")
    (tmp_path / "package/lit_llm/data/documents").mkdir(parents=True)
    home = tmp_path / "package/lit_llm/data/documents"
    source = (reading.Path(worker.__file__)).read_text()
    (home / "worker.py").write_text(source.replace("SECONDS = 60 ", "SECONDS = 1 "))
    (home / "reader.py").write_text(
        "import os, socket, subprocess\n"
        "class Unreadable(Exception): pass\n"
        "def read(kind, data, encoding):\n"
        "    if data == b'loop':\n        while True: pass\n"
        "    if data == b'fill': return {'text': 'x' * 2**40}\n"
        "    if data == b'crash': os._exit(3)\n"
        "    if data == b'net': socket.create_connection(('127.0.0.1', 9))\n"
        "    if data == b'run': subprocess.run(['true'])\n"
        "    if data == b'write': open('made', 'w')\n"
        "    if data == b'touch': os.close(os.open('made', os.O_WRONLY | os.O_CREAT))\n"
        "    if data == b'secret': return {'text': os.environ.get('HF_TOKEN', 'none')}\n"
        "    print('what a library says')\n"
        "    return {'text': data.decode()}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "seconds_for", lambda _: 1)
    monkeypatch.setattr(workers, "WAIT", 100.0)  # a busy machine has not begun after five
    monkeypatch.setenv("HF_TOKEN", "of the user")
    group = workers.Workers(1)
    try:
        said = {
            name: group.read(".pdf", name.encode(), "auto")
            for name in ("loop", "fill", "crash", "net", "run", "write", "touch", "secret", "good")
        }
    finally:
        group.close()
    assert said["good"] == {"text": "good"}
    reasons = {name: found.get("reason") for name, found in said.items()}
    if sys.platform == "linux":
        assert reasons["loop"] == "document_too_slow" and reasons["fill"] == "document_too_big"
    assert reasons["crash"] == "broken_document" and "code 3" in said["crash"]["what"]
    for name, event in (("net", "socket."), ("run", "subprocess.Popen"), ("write", "open"), ("touch", "open")):
        assert reasons[name] == "broken_document" and f"{event}" in said[name]["what"], said[name]
    assert not (tmp_path / "made").exists() and said["secret"] == {"text": "none"}


def test_documents_are_not_read_again_until_they_change(tmp_path, monkeypatch):
    file = write(tmp_path, "a.html", PAGE % b"One text.")
    bad = write(tmp_path, "b.pdf", made.pdf([[]], image=True))

    def read():
        rows = list(read_rows([file, bad], "auto", tmp_path / "cache"))
        return [row.reason if isinstance(row, RowError) else row.value for row in rows]

    assert read() == ["One text.", "no_text_layer"]
    monkeypatch.setattr(workers.Workers, "read", lambda *_: pytest.fail("read again"))
    assert read() == ["One text.", "no_text_layer"]
    monkeypatch.undo()
    write(tmp_path, "a.html", PAGE % b"Another text.")
    (kept,) = [f for f in (tmp_path / "cache/documents").iterdir() if "One text." in f.read_text()]
    kept.write_text("{")  # cut by a full disk
    assert read() == ["Another text.", "no_text_layer"]


def test_a_missing_extra_is_an_error_that_names_it(tmp_path, monkeypatch):
    write(tmp_path, "a.pdf", pages("text"))
    monkeypatch.setattr(reading, "find_spec", lambda name: None if name == "pypdf" else object())
    with pytest.raises(UserError, match=r'a\.pdf: reading documents needs pypdf; pip install -e "\.\[documents\]"'):
        read_records(str(tmp_path), "texts", DataOptions(cache_dir=tmp_path / "cache"))


def test_a_held_out_piece_says_its_pages_and_the_rest_is_one_document(tmp_path):
    texts = [f"Page {number} says what no other page says, in {number * 7} words. " * 6 for number in range(1, 13)]
    write(
        tmp_path,
        "contract.pdf",
        made.pdf([made.lines(60, 700, [text[at : at + 90] for at in range(0, len(text), 90)]) for text in texts]),
    )
    records = read_records(str(tmp_path), "texts", DataOptions(cache_dir=tmp_path / "cache", test_fraction=0.2))
    assert records["test"] and records["validation"]
    for piece in (*records["test"], *records["validation"]):
        first, _, last = piece.source.removeprefix(f"{tmp_path}/contract.pdf:").partition(" to ")
        pages_in = [n for n in range(1, 13) if f"Page {n} says" in piece.text]
        assert {f"page {n}" for n in pages_in} <= {
            f"page {n}" for n in range(int(first[5:]), int((last or first)[5:]) + 1)
        }
    assert len(records["train"]) < len(records["test"]) + len(records["validation"]) + 2


def test_texts_in_old_encodings_are_read_and_told(tmp_path, caplog):
    arabic, german = (
        "اتفق الطرفان على دفع الإيجار في أول كل شهر. " * 3,
        "Der Mieter zahlt für die Wohnung in der Königstraße. ",
    )
    write(tmp_path, "windows.txt", arabic.encode("cp1256"))
    write(tmp_path, "latin.txt", german.encode("latin-1"))
    write(tmp_path, "wide.txt", german.upper().encode("utf-16-le"))
    write(tmp_path, "marked.txt", arabic[::2].encode("utf-16"))
    write(tmp_path, "plain.txt", "Ünïcode stays as it is. ")
    with caplog.at_level(logging.WARNING):
        records = read_records(str(tmp_path), "texts", DataOptions(validation_fraction=0, test_fraction=0))
    assert {record.text for record in records["train"]} == {
        arabic, german, german.upper(), arabic[::2], "Ünïcode stays as it is. ",
    }  # fmt: skip
    assert records.counts.encodings == {"cp1256": 1, "cp1252": 1, "utf-16-le": 1, "utf-16": 1}
    (told,) = [record.getMessage() for record in caplog.records if "UTF-8" in record.getMessage()]
    assert "cp1252: latin.txt; cp1256: windows.txt; utf-16: marked.txt; utf-16-le: wide.txt" in told
    records = read_records(
        str(tmp_path / "windows.txt"), "texts", DataOptions(encoding="cp1256", validation_fraction=0, test_fraction=0)
    )
    assert [record.text for record in records["train"]] == [arabic] and not records.counts.encodings


def test_documents_beside_conversations_are_left_out(tmp_path):
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    write(tmp_path, "chats.jsonl", json.dumps(row))
    write(tmp_path, "guide.pdf", b"not looked at")
    records = read_records(str(tmp_path), "examples", DataOptions(validation_fraction=0, test_fraction=0))
    assert len(records["train"]) == 1 and records.counts.ignored_files == 1


def test_archives_are_read_as_folders(tmp_path, tokenizer):
    write(tmp_path, "texts.zip", made.zipped({
        "train/letters/may.html": PAGE % b"May is warm and long.", "train/a.txt": "A text in a folder.",
        "__MACOSX/a.txt": "no",
        "test/b.txt": "Held out by its folder.", "train/inner.zip": made.zipped({"c.txt": "An archive in an archive."}),
    }))  # fmt: skip
    options = raw_text.RawText.Options(
        path=str(tmp_path), max_length=8, cache_dir=str(tmp_path / "cache"), validation_fraction=0
    )
    data = raw_text.RawText(options, tokenizer=tokenizer)
    records = read_records(str(tmp_path), "texts", DataOptions(validation_fraction=0, cache_dir=tmp_path / "cache"))
    assert {r.source.removeprefix(f"{tmp_path}/"): r.text for r in records["train"]} == {
        "texts.zip/train/letters/may.html": "May is warm and long.", "texts.zip/train/a.txt:1": "A text in a folder.",
        "texts.zip/train/inner.zip/c.txt:1": "An archive in an archive.",
    }  # fmt: skip
    assert [r.text for r in records["test"]] == ["Held out by its folder."]
    assert data.prepared.train_tokens > 0 and data.files() == [f"{tmp_path}/texts.zip"]
