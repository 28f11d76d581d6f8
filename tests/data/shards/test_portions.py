"""Portions hold every byte of a corpus once, begin with lines and know their numbers."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.data import file_rows
from lit_llm.data.file_rows import Row, read_part, read_rows
from lit_llm.data.shards import portions
from tests.data.shards.texts import jsonl, text


def told(rows):
    """Rows and errors as what they say and where."""
    return [(row.value, row.line, row.where) if isinstance(row, Row) else (row.reason, str(row)) for row in rows]


def cut(file, cache):
    return [portion.part for portion in portions.portions([str(file)], "auto", cache)]


@settings(max_examples=25)
@given(
    st.lists(st.one_of(st.text(max_size=300), st.sampled_from(["{", "[]", "", '{"text": 1}', "\udc80"])), max_size=40),
    st.booleans(),
    st.integers(20, 400),
)
def test_the_rows_of_the_parts_are_those_of_the_file(tmp_path_factory, lines, ends, size):
    folder = tmp_path_factory.mktemp("lines")
    rows = [line if line.startswith(("{", "[")) else {"text": line} for line in lines]
    data = jsonl(rows).encode("utf-8", "surrogatepass")
    file = folder / "a.jsonl"
    file.write_bytes(data if ends else data.rstrip(b"\n"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portions, "PORTION", size)
        parts = [part for part in cut(file, folder) if part is not None]
    if file.stat().st_size <= size:
        assert parts == []
        return
    assert [0, *(part.end for part in parts)] == [*(part.begin for part in parts), file.stat().st_size]
    found = [row for part in parts for row in read_part(str(file), part, "auto")]
    assert told(found) == told(read_rows([str(file)], "auto"))


@settings(max_examples=25)
@given(st.lists(st.text("ab éß漢😀\n", max_size=200), max_size=30), st.integers(60, 300), st.integers(16, 50))
def test_the_pieces_of_a_long_text_are_all_of_it_in_whole_letters(tmp_path_factory, parts, portion, piece):
    folder = tmp_path_factory.mktemp("text")
    file, whole = folder / "a.txt", "".join(parts)
    file.write_bytes(whole.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portions, "PORTION", portion)
        patch.setattr(portions, "LONG_TEXT", portion)
        for module in (file_rows, portions):
            patch.setattr(module, "PIECE", piece)
        found = [
            row
            for each in portions.portions([str(file)], "auto", folder)
            for row in (read_part(str(file), each.part, "auto") if each.part else read_rows(each.files, "auto"))
        ]
    assert all(isinstance(row, Row) for row in found)
    assert "".join(row.value for row in found) == whole
    at = 0
    for row in found:
        assert row.line == whole.count("\n", 0, at) + 1
        at += len(row.value)


def test_a_file_that_grew_has_the_same_first_portions_and_small_files_stand_together(tmp_path):
    def contents(*files):
        return [portion.content for portion in portions.portions([*map(str, files)], "utf-8", tmp_path / "cache")]

    file = tmp_path / "a.jsonl"
    file.write_text(jsonl([{"text": text(n)} for n in range(60)]))
    first = contents(file)
    assert len(first) > 3
    with file.open("a") as more:
        more.write(jsonl([{"text": text(n)} for n in range(100, 130)]))
    assert contents(file)[: len(first) - 1] == first[:-1]
    others = [tmp_path / f"{number}.txt" for number in range(30)]
    for number, other in enumerate(others):
        other.write_text(text(number))
    found = [*portions.portions([*map(str, others), str(file)], "utf-8", tmp_path / "cache")]
    assert [name for portion in found if portion.part is None for name in portion.files] == [*map(str, others)]
    assert max(portion.size for portion in found if portion.part is None) <= 4096 < sum(p.size for p in found)


def test_the_hashes_are_of_the_bytes_and_known_the_next_time_without_reading(tmp_path, monkeypatch):
    file = tmp_path / "a.jsonl"
    file.write_text(jsonl([{"text": text(n)} for n in range(60)]))
    monkeypatch.setattr(portions, "SETTLED", -(10**12))
    found = [*portions.portions([str(file)], "utf-8", tmp_path / "cache")]
    data = file.read_bytes()
    parts = portions._parts(str(file), tmp_path / "cache", lambda _: None)
    assert [digest for *_, digest in parts] == [hashlib.sha256(data[a:b]).hexdigest() for a, b, *_ in parts]

    def unread(*_):
        raise AssertionError("the file is read again")

    monkeypatch.setattr(portions, "_cut", unread)
    assert [*portions.portions([str(file)], "utf-8", tmp_path / "cache")] == found
    file.write_bytes(data + b"\n")
    with pytest.raises(AssertionError, match="read again"):
        list(portions.portions([str(file)], "utf-8", tmp_path / "cache"))


@pytest.mark.parametrize(("name", "encoding"), [("a.jsonl", "utf-16"), ("a.csv", "utf-8"), ("a.jsonl.gz", "utf-8")])
def test_what_has_no_lines_to_cut_at_is_whole(tmp_path, name, encoding):
    Path(tmp_path / name).write_bytes(b"x" * 10_000)
    (only,) = portions.portions([str(tmp_path / name)], encoding, tmp_path / "cache")
    assert only.part is None and only.size == 10_000
