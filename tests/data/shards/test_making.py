"""Shards are made of the bytes that name them, within a bound of memory, and once."""

import ast
import csv
import os
from collections import Counter
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from lit_llm.data.filters import content_key, share
from lit_llm.data.raw_text import RawText
from lit_llm.data.reading import Last
from lit_llm.data.shards import making, portions, size
from lit_llm.data.shards.shard import Writer, opened
from lit_llm.errors import UserError
from lit_llm.records import Document
from tests.data.shards.test_corpus import both, check_equal
from tests.data.shards.texts import jsonl, text


def documents_in(data):
    return sum(shard.documents for part in data.prepared.train.parts for shard in part._shards)


def test_a_file_that_is_read_from_end_to_end_is_not_remembered_text_by_text(tokenizer, tmp_path, monkeypatch):
    """A .csv of any length: of its texts some are remembered, and copies that are far apart are found all the same."""
    monkeypatch.setattr(making, "REMEMBERED", 3)
    texts = [text(number) for number in range(60)]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([one] for one in [*texts, texts[59], *texts[::4], texts[56]])])
    one, other = both(tokenizer, str(tmp_path / "a.csv"), tmp_path)
    check_equal(one, other)
    assert other.counts()["skipped"]["duplicate"] == 17
    assert documents_in(other) == 60 + 15, "the two that follow what they copy are found at once, the others later"


def without_small_hashes(number):
    """Texts of which none is held out by its hash at a share of a tenth."""
    made = (text(n) for n in count())
    return list(islice((one for one in made if share(content_key(Document(one, ""))) >= 0.1), number))


@pytest.mark.parametrize("named", [False, True])
def test_where_no_hash_is_small_what_is_held_out_has_its_text_all_the_same(tokenizer, tmp_path, named):
    """As of a corpus of few texts: the parts take those with the smallest hashes, of which shards keep no text."""
    texts = without_small_hashes(30)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.jsonl").write_text(jsonl([{"text": one} for one in texts]))
    if named:
        (tmp_path / "corpus/validation.jsonl").write_text(jsonl([{"text": text(20_000)}]))
    one, other = both(tokenizer, str(tmp_path / "corpus"), tmp_path, decontaminate_words=0)
    check_equal(one, other)
    (held,) = other.heldout()
    assert len(held.items) == 1 and held.items[0].text in texts and all(map(len, other.prepared.validation.values()))


@pytest.mark.parametrize("name", ["a.jsonl", "b.csv"])
def test_a_file_that_is_written_to_while_it_is_read_is_refused_and_nothing_is_kept_of_it(
    tokenizer, tmp_path, monkeypatch, name
):
    rows = [{"text": text(number)} for number in range(80)]
    path = tmp_path / name
    path.write_text(jsonl(rows) if name == "a.jsonl" else "text\n" + "".join(f"{row['text']}\n" for row in rows))
    _, data = both(tokenizer, str(path), tmp_path)
    inner = making.rows_of

    def written_to(portion, reading, *more):
        for number, row in enumerate(inner(portion, reading, *more)):
            if number == 5:  # somebody mends a word, in place
                whole = path.read_bytes()
                path.write_bytes(whole.replace(rows[70]["text"][:9].encode(), b"otherwise"))
                os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(making, "rows_of", written_to)
        with pytest.raises(UserError, match=rf"{name}: was written to while it was read; start again") as raised:
            data.setup()
    kept = list((tmp_path / "shards/tokens/shards").rglob("shard.json"))
    assert "\n" not in str(raised.value) and (name == "a.jsonl" or not kept), "other parts are what they were"
    one, other = both(tokenizer, str(path), tmp_path)
    check_equal(one, other)
    assert any("otherwise" in text for text in RawText.tokenizer_texts(other.options))


@pytest.mark.parametrize("ended", [True, False])
def test_a_file_of_lines_may_grow_while_it_is_read(tokenizer, tmp_path, monkeypatch, ended):
    """But not its last line, which is read as long as it is then."""
    path, inner = tmp_path / "a.jsonl", making.rows_of
    path.write_text(jsonl([{"text": text(number)} for number in range(80)]).removesuffix("" if ended else "\n"))
    one, other = both(tokenizer, str(path), tmp_path)
    one.setup()

    def grows(*given):
        with path.open("a") as file:
            file.write(jsonl([{"text": "one more"}]) if ended else " ")
        return inner(*given)

    with monkeypatch.context() as patch:
        patch.setattr(making, "rows_of", grows)
        if not ended:
            with pytest.raises(UserError, match="was written to while it was read"):
                other.setup()
            return
        other.setup()
    check_equal(one, other)


def writer_of(folder, words):
    writer = Writer(folder, np.uint16)
    document = Document(words, "a.jsonl:1", file="a.jsonl")
    writer.write(document, Last(1, content_key(document), 3, ""), np.arange(9), may_be_held_out=True)
    return writer


def test_of_two_runs_that_make_a_shard_the_first_one_s_stays(tmp_path):
    """Runs with other options of the corpus share its shards, and whoever reads one must not lose it."""
    folder = tmp_path / "shards/ab/abc"
    one, other = writer_of(folder, "a text"), writer_of(folder, "a text")
    one.commit({"last": True})
    reads = (folder / "tokens.bin").open("rb")
    other.commit({"last": True})
    assert os.fstat(reads.fileno()).st_ino == (folder / "tokens.bin").stat().st_ino
    (folder / "tokens.bin").write_bytes(b"\1" * 18)  # as long, and another
    writer_of(folder, "a text").commit({"last": True})
    assert opened(folder).is_whole() and [each.name for each in folder.parent.iterdir()] == ["abc"]


OTHERS = {"bad_rows", "conversations", "counts", "filters", "found_encodings", "holding_out",
          "label_formats", "nearest_format", "not_usable", "options", "overview", "preference_formats",
          "problem_formats", "projects", "quality", "row_errors", "row_ids", "sources", "splits",
          "store_requests", "stores", "token_cache", "unfit_rows"}  # fmt: skip
"""What reading needs that makes no text: other records, what is counted, fetched, told of; or is in the key anyway."""


def imported_by(name, root):
    place = root / name.replace(".", "/")
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for one in [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]:
                if one.startswith("lit_llm.data.") and ((root / one.replace(".", "/")).with_suffix(".py").is_file()):
                    yield one


def test_the_key_of_a_shard_has_the_code_that_reads_its_rows():
    root, seen, left = Path(making.__file__).parents[3], Counter(), ["lit_llm.data.reading", "lit_llm.data.file_rows"]
    while left:
        one = left.pop()
        seen[one] += 1
        if seen[one] == 1 and one.split(".")[2] not in OTHERS:
            left += imported_by(one, root)
    covered = {name.removeprefix("lit_llm.data.") for name in making.CODE if name.startswith("lit_llm.data.")}
    missing = {one.split(".")[2] for one in seen} - OTHERS - covered
    assert len(seen) > 20 and not missing


def test_held_out_files_that_fill_the_memory_are_told_of(tokenizer, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(size, "MANY_HELD_OUT", 2000)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/train.jsonl").write_text(jsonl([{"text": text(number)} for number in range(60)]))
    (tmp_path / "c/validation.jsonl").write_text(jsonl([{"text": text(number)} for number in range(100, 120)]))
    both(tokenizer, str(tmp_path / "c"), tmp_path, test_fraction=0.0)[1].setup()
    assert "what it holds out (validation) has 0 MiB, and takes memory" in caplog.text


@pytest.mark.parametrize(("name", "encoding"), [("a.jsonl", "utf-16"), ("a.csv", "utf-16"), ("a.csv", "auto")])
def test_lines_in_an_encoding_that_is_read_whole_have_a_bound(tmp_path, monkeypatch, name, encoding):
    monkeypatch.setattr(portions, "MOST_WHOLE", 3000)
    rows = jsonl([{"text": text(number)} for number in range(20)]) if name == "a.jsonl" else "text\nsome\n" * 900
    (tmp_path / name).write_text(rows, encoding="utf-16")
    with pytest.raises(UserError, match=rf"{name}: 0 MiB, to be in memory at once; give it in UTF-8, which is read in"):
        list(portions.portions([str(tmp_path / name)], encoding, tmp_path))
    (tmp_path / name).write_text(rows)
    assert list(portions.portions([str(tmp_path / name)], "auto", tmp_path))
