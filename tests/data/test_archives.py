"""Archives as folders, within bounds."""

import gzip
import io
import tarfile
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from lit_llm.data import archives
from lit_llm.data.file_rows import read_rows
from lit_llm.data.row_errors import RowError
from lit_llm.data.sources import resolve
from lit_llm.errors import UserError


def tar(mode, members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{mode}") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
                file.addfile(info)
            else:
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return data.getvalue()


def zipped(members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return data.getvalue()


def packed_with_zstandard(data):
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


MEMBERS = [
    ("b/two.jsonl", b'{"text": "two"}\n'),
    ("a.txt", b"one"),
    ("link.txt", None),
    ("c.txt.gz", gzip.compress(b"three")),
]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.zip", zipped([member for member in MEMBERS if member[1] is not None])),
        ("x.tar", tar("", MEMBERS)), ("x.tar.gz", tar("gz", MEMBERS)), ("x.TGZ", tar("gz", MEMBERS)),
        ("x.tar.bz2", tar("bz2", MEMBERS)), ("x.txz", tar("xz", MEMBERS)),
        ("x.tar.zst", packed_with_zstandard(tar("", MEMBERS))),
    ],
)  # fmt: skip
def test_every_kind_of_archive_gives_its_files_in_any_order(tmp_path, name, data):
    file = tmp_path / name
    file.write_bytes(data)
    found = resolve(str(file))["all"]
    assert found == [f"{file}/b/two.jsonl", f"{file}/a.txt", f"{file}/c.txt.gz"]
    values = [row.value for row in read_rows([*found, *reversed(found)], "auto")]
    assert values == [{"text": "two"}, "one", "three", "three", "one", {"text": "two"}]
    assert archives.home(found[0]) == str(file)


def refused(tmp_path, name, data):
    file = tmp_path / name
    file.write_bytes(data)
    (row,) = read_rows(resolve(str(file))["all"])
    assert isinstance(row, RowError) and str(file) in str(row)
    return row.reason


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "..\\out.txt"])
def test_no_member_leaves_the_archive(tmp_path, name):
    assert refused(tmp_path, "x.zip", zipped([("a.txt", "a"), (name, "out")])) == "archive_path"
    assert refused(tmp_path, "x.tar", tar("", [("a.txt", b"a"), (name, b"out")])) == "archive_path"


def test_bombs_and_damaged_archives_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "WINDOW", 2**20)
    monkeypatch.setattr("lit_llm.data.compression.WINDOW", 2**20)
    assert refused(tmp_path, "x.zip", zipped([(f"{n}.txt", b"\0" * 2**20) for n in range(4)])) == "archive_bomb"
    assert refused(tmp_path, "x.tar.gz", tar("gz", [("a.txt", b"\0" * 2**22)])) == "decompression_bomb"
    inner = zipped([("a.txt", b"a")])
    for _ in range(4):
        inner = zipped([("inner.zip", inner)])
    assert refused(tmp_path, "deep.zip", inner) == "archive_bomb"
    assert refused(tmp_path, "cut.zip", zipped([("a.txt", b"a")])[:-30]) == "damaged_archive"
    assert refused(tmp_path, "cut.tar.gz", tar("gz", [("a.txt", bytes(range(256)) * 99)])[:-40]) == "damaged_archive"
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    assert refused(tmp_path, "many.zip", zipped([(f"{n}.txt", b"a") for n in range(3)])) == "archive_bomb"


def test_bounds_are_those_of_the_file_with_all_archives_in_it(tmp_path, monkeypatch):
    """A few kilobytes list a hundred thousand members, ten times ten thousand; a thousand small texts are a corpus."""
    inner = zipped([(f"{n}", b"") for n in range(2_000)])
    bomb = zipped([(f"{n}.zip", inner) for n in range(10)])
    assert refused(tmp_path, "names.zip", zipped([("bomb.zip", bomb)])) == "archive_bomb"
    (tmp_path / "texts.zip").write_bytes(zipped([(f"{n}.txt", b"%d" % n) for n in range(3_000)]))
    assert len(archives.members(str(tmp_path / "texts.zip"))) == 3_000
    monkeypatch.setattr(archives, "MAX_MEMBERS", 4)
    three = zipped([(f"{n}.txt", b"a") for n in range(3)])
    assert refused(tmp_path, "two.zip", zipped([("a.zip", three), ("b.zip", three)])) == "archive_bomb"


@pytest.mark.parametrize("spooled", [archives.MAX_SPOOLED, 100])
def test_members_of_a_packed_tar_are_read_in_any_order_and_unpacked_once(tmp_path, monkeypatch, spooled):
    monkeypatch.setattr(archives, "MAX_SPOOLED", spooled)
    begun = []
    monkeypatch.setattr(archives, "_packed", lambda *a, to=archives._packed: (begun.append(a), to(*a))[1])
    (tmp_path / "x.tar.gz").write_bytes(tar("gz", [(f"{n}.txt", b"%d " % n * 9_000) for n in range(60)]))
    files = archives.members(str(tmp_path / "x.tar.gz"))
    for file in [*files[30:], *files[:30]]:
        assert archives.opened(file).read(3).split()[0] == file.rsplit("/", 1)[1][:-4].encode()
    assert len(begun) == 1 or spooled == 100


def test_archives_that_stay_open_hold_no_more_than_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_KEPT", 1000)
    inner = zipped([("a.txt", bytes(range(256)) * 2)])
    (tmp_path / "x.zip").write_bytes(zipped([(f"{n}.zip", inner) for n in range(6)]))
    for file in archives.members(str(tmp_path / "x.zip")):
        assert archives.opened(file).read() == bytes(range(256)) * 2
        assert sum(one.held for one in archives._open.values()) <= 1000 and len(archives._open) <= archives.KEPT


def test_an_archive_without_files_that_are_read_says_what_is_in_it(tmp_path):
    (tmp_path / "x.zip").write_bytes(zipped([("a.png", b"x")]))
    with pytest.raises(UserError, match=r"archive .*x\.zip: no file of a known format among \.png"):
        resolve(str(tmp_path / "x.zip"))


def test_tables_in_an_archive_are_read(tmp_path):
    table = pyarrow.table({"text": ["one", "two"]})
    parquet, arrow = io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(table, parquet)
    with pyarrow.ipc.new_stream(arrow, table.schema) as stream:
        stream.write_table(table)
    members = [("a.parquet", parquet.getvalue()), ("b.arrow", arrow.getvalue()), ("c.csv", b"text\none\ntwo\n")]
    (tmp_path / "tables.zip").write_bytes(zipped(members))
    files = resolve(str(tmp_path / "tables.zip"))["all"]
    assert [row.value["text"] for row in read_rows(files)] == ["one", "two"] * 3
