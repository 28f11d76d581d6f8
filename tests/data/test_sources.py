"""What a user may name as data, and what is said when nothing usable is there."""

import bz2
import gzip
import json
import lzma
import os
import sys
import types
from pathlib import Path

import pytest

from lit_llm.data.encodings import checked_encoding
from lit_llm.data.file_rows import Row, read_rows
from lit_llm.data.row_errors import RowError
from lit_llm.data.sources import resolve
from lit_llm.errors import UserError

OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500


def write(folder, name, content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def test_a_file_a_folder_a_glob_and_a_list_give_the_same_rows(tmp_path):
    one, two = write(tmp_path, "a.jsonl", '{"text": "x"}\n'), write(tmp_path, "b/c.jsonl", '{"text": "y"}\n')
    assert resolve(one) == {"all": [one]}
    for path in (str(tmp_path), str(tmp_path / "**" / "*.jsonl"), [one, two], [two, one]):
        assert sorted(resolve(path)["all"]) == [one, two]
    rows = list(read_rows([one, two]))
    assert [(r.value["text"], r.where) for r in rows] == [("x", f"{one}:1"), ("y", f"{two}:1")]


def test_linked_folders_are_read_and_links_that_lead_back_end(tmp_path, monkeypatch):
    one = write(tmp_path, "data/a.jsonl", '{"text": "x"}\n')
    write(tmp_path, "other disk/deep/أهلا 😀.txt", "y")
    (tmp_path / "data/linked").symlink_to(tmp_path / "other disk")
    (tmp_path / "data/round").symlink_to(tmp_path / "data")
    (tmp_path / "other disk/deep/back").symlink_to(tmp_path / "data")
    write(tmp_path, "data/.git/b.txt", "z")
    assert resolve(str(tmp_path / "data"))["all"] == [one, str(tmp_path / "data/linked/deep/أهلا 😀.txt")]

    def scandir(place):
        if str(place).endswith("deep"):
            raise PermissionError(13, "Permission denied", place)
        return listed(place)

    listed = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"linked/deep: cannot be listed \(Permission denied\)"):
        resolve(str(tmp_path / "data"))


def test_a_folder_named_by_a_number(tmp_path, monkeypatch):
    write(tmp_path, "2024/a.txt", "a")
    monkeypatch.chdir(tmp_path)
    assert resolve(2024) == resolve([2024]) == resolve("2024") == {"all": ["2024/a.txt"]}


def test_splits_by_file_name_and_by_mapping(tmp_path):
    for name in (
        "train-00000.jsonl",
        "train_b.jsonl",
        "validation.jsonl",
        "test.jsonl",
        "test_wordings.jsonl",
        "README.md",
    ):
        write(tmp_path, name, "{}")
    splits = resolve(str(tmp_path))
    assert {k: len(v) for k, v in splits.items()} == {"test": 1, "test_wordings": 1, "train": 2, "validation": 1}
    ignored = []
    assert resolve(str(tmp_path), ignored=ignored) == splits
    assert [Path(file).name for file in ignored] == ["README.md"]
    file = write(tmp_path, "other.jsonl", "{}")
    assert resolve({"train": file, "val": file}) == {"train": [file], "validation": [file]}


def test_a_file_called_training_makes_no_other_file_vanish(tmp_path):
    for name in ("api.md", "install.md", "training.md", "usage.md", "keys.yaml", "LICENSE"):
        write(tmp_path, name, "a")
    ignored = []
    assert [Path(f).stem for f in resolve(str(tmp_path), ignored=ignored)["all"]] == [
        "api", "install", "training", "usage",
    ]  # fmt: skip
    assert [Path(f).name for f in ignored] == ["LICENSE", "keys.yaml"]


def test_folders_called_train_and_test_are_splits(tmp_path):
    for name in ("train/0000.jsonl", "train/test_0001.jsonl", "test/0000.jsonl", "val/a/0000.jsonl"):
        write(tmp_path / "hf", name, "{}")
    for path in (str(tmp_path / "hf"), str(tmp_path / "hf" / "**" / "*.jsonl")):
        splits = resolve(path)
        assert {name: len(files) for name, files in splits.items()} == {"train": 2, "test": 1, "validation": 1}
    write(tmp_path, "test/train.jsonl", "{}")  # the folder's own name says nothing that its files do not
    write(tmp_path, "test/test.jsonl", "{}")
    assert set(resolve(str(tmp_path / "test"))) == {"train", "test"}


def test_a_folder_with_splits_gives_the_one_that_is_asked_for(tmp_path):
    train, far = write(tmp_path, "a/train.jsonl", "{}"), write(tmp_path, "a/test_far.jsonl", "{}")
    other = write(tmp_path, "b.jsonl", "{}")
    assert resolve({"train": str(tmp_path / "a"), "test": other}) == {"train": [train], "test": [other]}
    assert resolve({"train": [other, str(tmp_path / "a")], "test": str(tmp_path / "a")}) == {
        "train": [other, train], "test": [far],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"data.path.val=.*it has the splits test_far, train, none of them for valid"):
        resolve({"train": other, "val": str(tmp_path / "a")})


def test_a_split_that_is_misspelt_is_named(tmp_path):
    file = write(tmp_path, "a.jsonl", "{}")
    with pytest.raises(UserError, match=r"data.path.tset: no such split; .*did you mean test\?"):
        resolve({"train": file, "tset": file})
    assert set(resolve({"train": file, "test_far": file})) == {"train", "test_far"}


def test_trainers_manual_is_no_training_split(tmp_path):
    write(tmp_path, "trainers_manual.txt", "a")
    write(tmp_path, "testimony.txt", "b")
    assert list(resolve(str(tmp_path))) == ["all"]


@pytest.mark.parametrize(("suffix", "opener"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_files_are_read_and_damage_is_named(tmp_path, suffix, opener):
    packed = opener(b'{"text": "\xd8\xb3\xd9\x84\xd8\xa7\xd9\x85"}\n' * 500)
    file = write(tmp_path, f"a.jsonl.{suffix}", packed)
    assert [r.value["text"] for r in read_rows([file])] == ["سلام"] * 500
    write(tmp_path, f"a.jsonl.{suffix}", packed[: len(packed) - 9])
    last = list(read_rows([file]))[-1]
    assert isinstance(last, RowError) and last.reason == "damaged_file" and file in str(last)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    file = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": ["x", "سلام"]}), file)
    assert [r.value for r in read_rows([file])] == [{"text": "x"}, {"text": "سلام"}]
    assert "row 2" in list(read_rows([file]))[1].where
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    assert [r.reason for r in read_rows([file])] == ["damaged_file"]


def test_json_lists_and_wrapped_lists(tmp_path):
    for content in ('[{"text": "a"}, {"text": "b"}]', '{"data": [{"text": "a"}, {"text": "b"}]}'):
        file = write(tmp_path, "a.json", content)
        assert [r.value for r in read_rows([file])] == [{"text": "a"}, {"text": "b"}]
    single = write(tmp_path, "b.json", '{"messages": [{"role": "user", "content": "a"}]}')
    assert len(list(read_rows([single]))) == 1


def test_a_text_file_is_one_row_and_a_byte_order_mark_is_no_text(tmp_path):
    file = write(tmp_path, "a.txt", b"\xef\xbb\xbfhello\nyou")
    assert list(read_rows([file])) == [Row("hello\nyou", file, 1)]
    lines = write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}')
    assert [(r.value["text"], r.line) for r in read_rows([lines])] == [("a", 1), ("b", 3)]


def test_zstandard_frames_are_read_and_a_cut_file_is_named(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    rows = [b'{"text": "row %d"}\n' % n for n in range(30_000)]
    packed = zstandard.compress(b"".join(rows[:9])) + zstandard.compress(b"".join(rows[9:]))
    file = write(tmp_path, "a.jsonl.zst", packed)
    assert [r.value["text"] for r in read_rows([file])] == [f"row {n}" for n in range(30_000)]
    text = write(tmp_path, "b.txt.zst", zstandard.compress("سلام".encode()))
    assert [r.value for r in read_rows([text])] == ["سلام"]
    for damaged in (packed[:-5], b"not packed"):
        last = list(read_rows([write(tmp_path, "a.jsonl.zst", damaged)]))[-1]
        assert isinstance(last, RowError) and last.reason == "damaged_file" and file in str(last)


def test_without_the_package_a_line_names_the_extra(tmp_path, monkeypatch):
    for module in ("zstandard",):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"a.jsonl.zst: .*pip install 'lit-llm\[zst\]'"):
        list(read_rows([write(tmp_path, "a.jsonl.zst", b"")]))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.jsonl", "gz"), ("a.jsonl", "bz2"), ("a.jsonl", "xz"), ("a.jsonl", "zst"), ("a.txt", "xz"), ("a.json", "zst")],
)
def test_bombs_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch, suffix, name):
    monkeypatch.setattr("lit_llm.data.compression.WINDOW", 2**18)
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(suffix)
    pack = pack or pytest.importorskip("zstandard").compress
    read = []
    monkeypatch.setattr("lit_llm.data.streams.MAX_LINE", 2**18)
    honest = b"".join(b'{"text": "%d"}\n' % (n * 7919) for n in range(50_000))
    file = write(tmp_path, f"{name}.{suffix}", pack(honest + b" " * 2**23 if name.endswith("l") else b"[" * 2**23))
    for row in read_rows([file]):
        read.append(row)
    bomb = read[-1]
    assert isinstance(bomb, RowError) and bomb.reason == "decompression_bomb"
    assert file in str(bomb) and "more than 500 to 1" in str(bomb) and "\n" not in str(bomb)
    if name.endswith("l"):
        assert read[24_999].value == {"text": str(24_999 * 7919)}  # what came before it


def test_what_comes_out_of_a_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_llm.data.compression.MAX_UNPACKED", 1000)
    file = write(tmp_path, "a.txt.gz", gzip.compress(bytes(range(32, 127)) * 30))
    (bad,) = read_rows([file])
    assert bad.reason == "decompression_bomb" and "split it" in str(bad)


BAD = {
    "duplicate_key": (
        b'{"text": "ok"}\n{"text": "a", "meta": {"b": 1, "b": 2}}',
        ":2: an object has the key 'b' twice",
    ),
    "invalid_utf8": (b'{"text": "ok"}\n{"text": "\xff"}', ":2: byte 11"),
    "malformed_json": (b'{"text": "ok"}\n{"text": ', ":2: column"),
    "not_an_object": (b'{"text": "ok"}\n[1, 2]', ":2: a list ('[1, 2]')"),
    "too_deep": (b'{"text": "ok"}\n' + b"[" * 100_000, ":2: nested too deep"),
    "git_lfs_pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git lfs pull"),
}


@pytest.mark.parametrize("reason", BAD)
def test_what_cannot_be_read_comes_with_file_line_and_what_would_be_right(tmp_path, reason):
    content, message = BAD[reason]
    file = write(tmp_path, "a.jsonl", content)
    bad = [r for r in read_rows([file]) if isinstance(r, RowError)]
    assert [b.reason for b in bad] == [reason]
    assert file in str(bad[0]) and message in str(bad[0]) and "\n" not in str(bad[0])


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.parquet", "a.jsonl.gz", "a.jsonl.zst", "a.txt.xz"])
def test_a_git_lfs_pointer_is_named_in_every_format(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    file = write(tmp_path, name, "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    assert [r.reason for r in read_rows([file])] == ["git_lfs_pointer"]


def test_a_key_twice_in_an_item_of_a_list_is_named_with_the_item(tmp_path):
    file = write(tmp_path, "a.json", '[{"text": "a"}, {"text": "b", "text": "c"}, {"text": "d"}]')
    first, second, third = read_rows([file])
    assert (first.value, third.value) == ({"text": "a"}, {"text": "d"})
    assert second.reason == "duplicate_key" and f"{file}:item 2: " in str(second)


def test_what_stands_beside_a_list_of_rows_is_not_dropped_in_silence(tmp_path):
    rows = '"data": [{"text": "a"}]'
    assert [r.value for r in read_rows([write(tmp_path, "a.json", f'{{"version": "1", {rows}}}')])] == [{"text": "a"}]
    (bad,) = read_rows([write(tmp_path, "a.json", f'{{"system": "Be brief.", {rows}}}')])
    assert bad.reason == "unknown_key" and "'system'" in str(bad) and "beside the list 'data'" in str(bad)


def test_lines_end_at_line_feeds_alone(tmp_path):
    odd = "a\u2028b\u2029c\x85d\u000be"
    file = write(
        tmp_path, "a.jsonl", "".join(json.dumps({"text": odd + str(n)}, ensure_ascii=False) + "\n" for n in (1, 2))
    )
    assert [(r.value["text"], r.line) for r in read_rows([file])] == [(f"{odd}1", 1), (f"{odd}2", 2)]
    text = write(tmp_path, "a.txt", odd + "\f")
    assert [r.value for r in read_rows([text])] == [odd + "\f"]


@pytest.mark.parametrize("encoding", ["windows-1256", "utf-16", "utf-16-be", "utf-8"])
def test_other_encodings_are_named_by_an_option(tmp_path, encoding):
    name = checked_encoding(encoding)
    rows = "".join(json.dumps({"text": f"مرحبا {n}"}, ensure_ascii=False) + "\n" for n in range(3))
    lines, text = write(tmp_path, "a.jsonl", rows.encode(encoding)), write(tmp_path, "a.txt", "مرحبا".encode(encoding))
    assert [r.value["text"] for r in read_rows([lines], name)] == [f"مرحبا {n}" for n in range(3)]
    assert [r.value for r in read_rows([text], name)] == ["مرحبا"]
    if encoding == "windows-1256":
        (bad,) = read_rows([text])
        assert bad.reason == "invalid_utf8" and f"{text}:1: byte 1 (0xe3) is no UTF-8; set data.encoding" in str(bad)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-32-be"])
def test_a_byte_order_mark_is_no_text_in_any_encoding(tmp_path, encoding):
    file = write(tmp_path, "a.txt", "\ufeffhello".encode(encoding))
    assert [row.value for row in read_rows([file], checked_encoding(encoding))] == ["hello"]


@pytest.mark.parametrize(("encoding", "said"), [("utf-32", "UTF-32 text"), ("utf-16-le", "data.encoding=utf-16-le")])
def test_what_is_in_wide_characters_is_called_by_its_name(tmp_path, encoding, said):
    (bad,) = read_rows([write(tmp_path, "a.jsonl", '{"text": "hello"}'.encode(encoding))])
    assert said in str(bad)


@pytest.mark.parametrize("encoding", ["klingon", "base64", "zip", ""])
def test_what_is_no_encoding_is_refused(encoding):
    with pytest.raises(UserError, match=f"data.encoding={encoding}: no encoding"):
        checked_encoding(encoding)


def test_a_text_file_of_nul_bytes_is_no_text_and_a_few_are(tmp_path):
    (bad,) = read_rows([write(tmp_path, "a.txt", ("hello " * 50).encode("utf-16-le"))])
    assert bad.reason == "nul_byte" and "300 of 600 characters are NUL" in str(bad)
    (row,) = read_rows([write(tmp_path, "a.txt", b"a\0b")])
    assert row.value == "a\0b"


def test_files_about_data_are_no_data_beside_it(tmp_path):
    about = ("README.md", "readme.txt", "LICENSE.txt", "dataset_info.json", "dataset_infos.json", "state.json",
             "croissant.json", "collection.json", ".gitattributes", "requirements.txt", "README_fa.md")  # fmt: skip
    for name in about:
        write(tmp_path, name, "{}")
    rows = write(tmp_path, "rows.json", "[]")
    guide = write(tmp_path, "guide.md", "a")
    for path in (str(tmp_path), str(tmp_path / "*")):
        ignored = []
        assert resolve(path, ignored=ignored) == {"all": [guide, rows]}
        assert sorted(Path(f).name for f in ignored) == sorted(name for name in about if name[0] != ".")
    assert resolve(str(tmp_path / "README.md")) == {"all": [str(tmp_path / "README.md")]}
    assert resolve(str(tmp_path / "state.json")) == {"all": [str(tmp_path / "state.json")]}
    alone = write(tmp_path / "alone", "README.md", "a")
    assert resolve(str(tmp_path / "alone")) == {"all": [alone]}
    for name in ("data-00000.arrow", "state.json", "dataset_info.json"):
        write(tmp_path / "saved", name, "{}")
    assert resolve(str(tmp_path / "saved")) == {"all": [str(tmp_path / "saved" / "data-00000.arrow")]}


def test_a_link_to_what_is_not_there_is_called_one(tmp_path):
    write(tmp_path, "a.jsonl", "{}")
    (tmp_path / "b.jsonl").symlink_to("../blobs/abc")
    for path in (tmp_path, tmp_path / "b.jsonl", tmp_path / "*.jsonl"):
        with pytest.raises(UserError, match=r"b.jsonl: a link to ../blobs/abc, which is not there"):
            resolve(str(path))


def test_utf16_and_latin1_text_files(tmp_path):
    assert "UTF-16" in str(next(iter(read_rows([write(tmp_path, "a.txt", "hello".encode("utf-16"))]))))
    assert ":2: byte 4" in str(next(iter(read_rows([write(tmp_path, "b.txt", "ab\ncafé".encode("latin-1"))]))))


def test_a_line_beyond_the_limit_is_skipped_without_holding_it(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_llm.data.streams.MAX_LINE", 100)
    file = write(tmp_path, "a.jsonl", b'{"text": "' + b"a" * 1000 + b'"}\n{"text": "b"}\n')
    first, second = read_rows([file])
    assert first.reason == "line_too_long" and ":1:" in str(first) and second.value == {"text": "b"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: str(d / "missing.jsonl"), "no such file"),
        (lambda d: str(d), "no files in it"),
        (lambda d: str(d / "*.jsonl"), "no files in it"),
        (lambda _: [], "the list is empty"),
        (lambda _: "", "is empty"),
        (lambda d: write(d, "a.cvs", "x"), r"extension \.cvs is unknown; accepted.*did you mean \.csv"),
        (lambda d: write(d, "a.jsnol", "x"), r"did you mean \.jsonl"),
        (lambda d: write(d, "a.doc", OLD_OFFICE), r"\.doc is Word's form before 2007; save it as \.docx$"),
        (lambda d: write(d, "a.ppt", OLD_OFFICE), r"\.ppt is PowerPoint's form before 2007"),
        (lambda d: write(d, "a.xls", OLD_OFFICE), r"\.xls is Excel's form before 2007; save it as \.xlsx"),
        (lambda d: write(d, "a.xls", "prompt\tcompletion"), r"it is a text by its content; rename it to \.csv or"),
        (lambda d: (write(d, "a.exe", "x"), str(d))[1], r"no file of a known format among \.exe"),
        (lambda d: (write(d, "mydata.jsonl", "x"), str(d / "mydta.jsonl"))[1], "did you mean .*mydata.jsonl"),
        (lambda _: "installed/raw_txt", "did you mean installed/raw_text"),
    ],
)
def test_nothing_usable_is_one_line(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        resolve(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_hub_is_streamed_or_its_package_named(monkeypatch):
    assert resolve("hub:owner/name") == {"all": ["hub:owner/name"]}
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install"):
        list(read_rows(["hub:owner/name"]))
    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return iter([{"text": "a"}])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert [r.value for r in read_rows(["hub:owner/name:part#test"])] == [{"text": "a"}]
    assert asked == [(("owner/name", "part"), {"split": "test", "streaming": True})]


def test_a_packed_parquet_file_is_called_one(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "rows.parquet.gz").write_bytes(gzip.compress(b"PAR1"))
    with pytest.raises(UserError, match=r"rows\.parquet\.gz: a packed parquet file; unpack it first"):
        list(read_rows([str(tmp_path / "rows.parquet.gz")]))
