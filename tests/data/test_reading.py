"""Every row is accounted for: read = used + skipped by reason, whatever the rows are."""

import json
import random
from pathlib import Path

import pytest

from lit_llm.data.filters import content_key, group_key
from lit_llm.data.holding_out import blocks
from lit_llm.data.label_formats import LabelsOfRankings
from lit_llm.data.options import DataOptions
from lit_llm.data.quality.screening import Screening
from lit_llm.data.reading import read_records
from lit_llm.errors import UserError
from lit_llm.records import Comparison, Document

SHARED = Path(__file__).parents[3] / "shared" / "data"
KINDS = ("texts", "examples", "comparisons", "labels", "prompts")


def lines(tmp_path, rows, name="data.jsonl"):
    file = tmp_path / name
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(file)


def accounted(records):
    counts = records.counts
    assert counts.read == counts.used + sum(counts.skipped.values())
    return counts


def test_stop_names_file_and_line_and_skip_counts(tmp_path):
    rows = [{"text": f"t{n}"} for n in range(20)] + [{"txt": "a"}, {"text": "t3"}, {"text": " "}]
    file = lines(tmp_path, rows)
    with pytest.raises(UserError, match=r"jsonl:21: .*{txt: text}' makes it text.*data.on_error=skip") as caught:
        read_records(file, "texts")
    assert "\n" not in str(caught.value)
    got = read_records(file, "texts", DataOptions(on_error="skip"))
    assert accounted(got).as_dict() == {
        "read": 23, "used": 20, "skipped": {"duplicate": 1, "empty_text": 1, "unknown_format": 1},
    }  # fmt: skip
    assert sum(map(len, got.splits.values())) == 20


def test_files_that_are_not_read_are_said_once_and_counted(tmp_path, caplog):
    lines(tmp_path, [{"text": "a"}])
    (tmp_path / "keys.yaml").write_text("a: b")
    with caplog.at_level("WARNING"):
        counts = accounted(read_records(str(tmp_path), "texts"))
    assert counts.as_dict() == {"read": 1, "used": 1, "skipped": {}, "ignored_files": 1}
    assert [r.getMessage().rpartition(": ")[2] for r in caplog.records] == ["keys.yaml"]


def test_too_many_bad_rows_and_none_at_all_are_errors(tmp_path):
    file = lines(tmp_path, [{"text": "a"}, {"x": 1}])
    with pytest.raises(
        UserError, match=r"1 of 2 rows is bad, more than data.max_error_rate=0.2 .*unknown_format 1.*:2:"
    ):
        read_records(file, "texts", DataOptions(on_error="skip"))
    assert read_records(file, "texts", DataOptions(on_error="skip", max_error_rate=0.5)).counts.used == 1
    with pytest.raises(UserError, match="no usable row"):
        read_records(lines(tmp_path, [{"x": 1}], "b.jsonl"), "texts", DataOptions(on_error="skip", max_error_rate=1.0))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="no usable row"):
        read_records(str(tmp_path / "empty.txt"), "texts")


@pytest.mark.parametrize("options", [{"on_error": "ignore"}, {"validation_fraction": 1.0}, {"test_fraction": -0.1}])
def test_wrong_options(tmp_path, options):
    with pytest.raises(UserError, match=f"data.{next(iter(options))}"):
        read_records(lines(tmp_path, [{"text": "a"}]), "texts", DataOptions(**options))


def test_splits_are_stable_disjoint_and_keep_a_prompt_together(tmp_path):
    rows = [
        {"prompt": f"q{n % 300}", "completions": ["a", "b"], "ranking": [1, 2], "annotator": f"p{n // 300}"}
        for n in range(600)
    ]
    file = lines(tmp_path, rows)
    got = read_records(file, "comparisons", DataOptions(validation_fraction=0.1, test_fraction=0.1))
    homes: dict[bytes, set[str]] = {}
    for split, records in got.splits.items():
        assert len(records) >= 20
        for record in records:
            homes.setdefault(group_key(record), set()).add(split)
    assert len(homes) == 300 and all(len(h) == 1 for h in homes.values())
    shuffled = lines(tmp_path, random.Random(0).sample(rows, len(rows)), "other.jsonl")
    again = read_records(shuffled, "comparisons", DataOptions(validation_fraction=0.1, test_fraction=0.1))
    for split in got.splits:
        assert {content_key(r) for r in got[split]} == {content_key(r) for r in again[split]}


def test_given_splits_stay_and_their_overlap_leaves_training(tmp_path):
    lines(tmp_path, [{"text": "a"}, {"text": "b"}, {"text": "c"}], "train.jsonl")
    lines(tmp_path, [{"text": "b"}], "validation.jsonl")
    lines(tmp_path, [{"text": "z"}], "test_far.jsonl")
    got = read_records(str(tmp_path), "texts")
    texts = {split: [record.text for record in records] for split, records in got.splits.items()}
    assert texts == {"train": ["a", "c"], "validation": ["b"], "test_far": ["z"]}
    assert accounted(got).skipped == {"in_heldout": 1}


def test_a_small_data_set_still_holds_something_out_and_one_row_trains(tmp_path):
    three = read_records(lines(tmp_path, [{"source": s, "target": "t"} for s in "abc"]), "examples")
    assert {k: len(v) for k, v in three.splits.items()} == {"train": 1, "validation": 1, "test": 1}
    one = read_records(lines(tmp_path, [{"source": "a", "target": "t"}]), "examples")
    assert {k: len(v) for k, v in one.splits.items()} == {"train": 1}


def test_one_book_is_cut_at_blank_lines_so_that_a_part_is_held_out(tmp_path):
    text = "\n\n".join(f"Paragraph {n} " + "words of it " * (n % 9 + 3) for n in range(900))
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    got = read_records(str(tmp_path / "book.txt"), "texts")
    assert accounted(got).used == 1
    assert all(got[s] for s in ("train", "validation", "test"))
    (parts,) = blocks([Document(text)])
    assert "".join(p.text for p in parts) == text
    assert all(p.text.endswith("\n\n") for p in parts[:-1])
    assert "".join(p.text for p in blocks([Document("x" * 9_999)])[0]) == "x" * 9_999
    # What is trained is whole but where a part was taken out: an end token stands nowhere else.
    gaps = len(got["validation"]) + len(got["test"])
    assert len(got["train"]) <= gaps + 1 and all(piece.text in text for piece in got["train"])
    assert sum(len(d.text) for records in got.splits.values() for d in records) == len(text)


def test_of_each_text_of_several_blocks_something_is_trained_and_a_text_held_out_whole_is_told(tmp_path, caplog):
    """Two blocks each: by their hashes alone, both of some texts are held out."""
    for seed in range(12):
        rng = random.Random(seed)
        words = [[f"w{rng.randrange(10**6)}" for _ in range(95)] for _ in range(9)]
        folder = tmp_path / str(seed)
        folder.mkdir()
        for number, some in enumerate(words):
            (folder / f"{number}.txt").write_text(" ".join(some))
        (folder / "short.txt").write_text(f"A short text number {seed}.")
        caplog.clear()
        got = read_records(str(folder), "texts", DataOptions(validation_fraction=0.4, test_fraction=0.4))
        trained = {document.file for document in got["train"]}
        assert trained >= {str(folder / f"{number}.txt") for number in range(9)}
        assert got["validation"] and got["test"]
        whole = str(folder / "short.txt") not in trained
        told = [line for line in caplog.messages if "held out whole, and not trained" in line]
        assert len(told) == whole
        assert all(f"1 text of 10 held out whole, and not trained: {folder}/short.txt" in line for line in told)


def test_texts_are_held_out_whole_as_soon_as_there_are_twenty(tmp_path):
    texts = [f"Text {n}.\n\n" + "\n\n".join(f"Line {n} {k} " + "of words " * 60 for k in range(9)) for n in range(20)]
    every = Screening(decontaminate_words=0)  # lines alike are not what is asked here
    got = read_records(lines(tmp_path, [{"text": text} for text in texts]), "texts", screening=every)
    assert sorted(d.text for records in got.splits.values() for d in records) == sorted(texts)
    assert all(got[split] for split in ("train", "validation", "test"))
    fewer = read_records(lines(tmp_path, [{"text": text} for text in texts[:19]], "b.jsonl"), "texts", screening=every)
    assert any(d.text not in texts for d in fewer["validation"])


def test_what_cleaning_alters_is_counted_and_left_alone_on_request(tmp_path):
    file = lines(tmp_path, [{"text": "a\r\nb\rc", "meta": "x\r\n"}, {"text": "d\0e\ff"}, {"text": "plain"}])
    got = read_records(file, "texts", DataOptions(validation_fraction=0, test_fraction=0))
    assert [d.text for d in got["train"]] == ["a\nb\nc", "de\ff", "plain"]
    assert accounted(got).as_dict()["altered"] == {"line_ends": 2, "nul_characters": 1}
    got = read_records(file, "texts", DataOptions(validation_fraction=0, test_fraction=0, clean=False))
    assert [d.text for d in got["train"]] == ["a\r\nb\rc", "d\0e\ff", "plain"]
    assert "altered" not in accounted(got).as_dict()


def test_an_id_with_other_content_is_counted_with_its_line(tmp_path, caplog):
    rows = [{"id": n, "text": f"t{n}"} for n in range(4)] + [{"id": 2, "text": "other"}, {"id": 1, "text": "t1"}]
    file = lines(tmp_path, rows)
    with caplog.at_level("WARNING"):
        counts = accounted(read_records(file, "texts"))
    assert (counts.repeated_ids, counts.used, counts.skipped) == (1, 5, {"duplicate": 1})
    assert counts.as_dict()["repeated_ids"] == 1
    (line,) = [r.getMessage() for r in caplog.records]
    assert f"1 row has the id of another row and other content; the first: {file}:5 ('id' is '2')" in line
    ranked = [
        {"id": "p", "prompt": "q", "completions": ["a", "b"], "ranking": [1, 2], "annotator": who} for who in "xyz"
    ]
    assert read_records(lines(tmp_path, ranked, "b.jsonl"), "comparisons").counts.repeated_ids == 0
    labels = read_records(str(tmp_path / "b.jsonl"), "labels", expand=LabelsOfRankings())
    assert labels.counts.repeated_ids == 0 and labels.counts.used == 6


def test_unknown_keys_stop_or_are_counted_or_are_let_pass(tmp_path):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "images": "c"}]
    file = lines(tmp_path, [{"source": f"a{n}", "target": "b"} for n in range(9)] + [{"messages": messages}])
    with pytest.raises(UserError, match=r"data.jsonl:10: key 'messages\[1\].images' would be dropped"):
        read_records(file, "examples")
    assert accounted(read_records(file, "examples", DataOptions(on_error="skip"))).skipped == {"unknown_key": 1}
    assert accounted(read_records(file, "examples", DataOptions(ignore_keys=["images"]))).used == 10


def test_all_tied_rankings_are_counted_and_do_not_stop(tmp_path):
    rows = [{"prompt": f"q{n}", "completions": ["a", "b"], "ranking": [1, 1 + n % 2]} for n in range(8)]
    got = read_records(lines(tmp_path, rows), "comparisons")
    assert accounted(got).skipped == {"all_tied": 4}


MORE = ("weight", "train", "loss", "system", "history", "thinking", "tools", "tool_calls", "images", "label", "id",
        "text", "type", "content", "value", "messages", "prompt", "completion", "score", "flags", "margin")  # fmt: skip


def mangle(rng, line):
    kind = rng.randrange(11)
    data = bytearray(line)
    if kind == 0:
        data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        del data[rng.randrange(len(data)) :]
    elif kind == 2:
        data[rng.randrange(len(data)) : 0] = bytes(rng.randrange(256) for _ in range(3))
    elif kind == 3:
        data = bytearray(
            rng.choice([b"null", b"[]", b'"x"', b"1e999", b"{}", b"\x00", b"[" * 9999, b"9" * 5000, b"{" * 50])
        )
    elif kind == 4:
        value = json.loads(line)
        value[rng.choice(list(value))] = rng.choice(
            [None, 1, 1.5, True, [], {}, [None], [[]], [{}], "\ud800", "\0", {"a": []}]
        )
        data = bytearray(json.dumps(value).encode())
    elif kind == 5:
        value = json.loads(line)
        key = rng.choice(list(value))
        value[key + "x"] = value.pop(key)
        data = bytearray(json.dumps(value).encode())
    elif kind == 6:
        value = json.loads(line)
        for key in value:
            if isinstance(value[key], list):
                value[key] = rng.sample(value[key] * 2, rng.randrange(len(value[key]) * 2))
        data = bytearray(json.dumps(value).encode())
    elif kind in (8, 9):  # a key of any kind, at the top or in a message
        value = json.loads(line)
        places = [value, *(one for v in value.values() if isinstance(v, list) for one in v if isinstance(one, dict))]
        rng.choice(places)[rng.choice([*MORE, "".join(rng.choices("abc_ :\n\0", k=5))])] = rng.choice(
            [
                None,
                0,
                1,
                0.5,
                False,
                "x",
                [],
                ["x"],
                [["a", "b"]],
                [{"role": "user", "content": "x"}],
                {"x": 1},
                "\ud800",
            ]
        )
        data = bytearray(json.dumps(value).encode())
    elif kind == 7:
        data = data[: len(data) // 2] + data[: len(data) // 3]
    return bytes(data).replace(b"\n", b" ")


@pytest.mark.parametrize("lines", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mangled_lines_never_give_a_bare_traceback(tmp_path, lines):
    seeds = [
        {"text": "hello سلام"},
        {"source": "a", "target": "b"},
        {"instruction": "a", "input": "c", "output": "b"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"prompt": "a", "chosen": "b", "rejected": "c", "weight": 1.0},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
        {"prompt": "a", "completions": ["b", "c", "d"], "ranking": [1, 2, 2], "annotator": "p", "flags": ["x"]},
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    ]
    rng = random.Random(0)
    rows = [mangle(rng, json.dumps(rng.choice(seeds)).encode()) for _ in range(lines)]
    (tmp_path / "fuzz.jsonl").write_bytes(b"\n".join(rows))
    filled = sum(1 for r in rows if r.strip())
    for kind in KINDS:
        got = read_records(str(tmp_path / "fuzz.jsonl"), kind, DataOptions(on_error="skip", max_error_rate=1.0))
        counts = accounted(got)
        assert counts.read == filled and counts.used > 0 and counts.errors > lines // 10
    for n, row in enumerate(rows[: lines // 10]):  # each alone, stopping
        file = tmp_path / "one.jsonl"
        file.write_bytes(row)
        try:
            read_records(str(file), KINDS[n % 5])
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.skipif(not (SHARED / "hh_harmless_part.jsonl").exists(), reason="the shared HH file is not here")
def test_hh_rlhf_by_the_strict_rules():
    every = DataOptions(on_error="skip", decontaminate_words=0)
    got = read_records(str(SHARED / "hh_harmless_part.jsonl"), "comparisons", every)
    assert accounted(got).as_dict() == {"read": 1156, "used": 1149, "skipped": {"empty_turn": 2, "role_order": 5}}
    assert all(
        isinstance(r, Comparison) and r.prompt[-1].role == "user" for split in got.splits.values() for r in split
    )


def test_a_row_that_says_it_is_held_out_is_not_trained(tmp_path):
    rows = [{"text": f"text number {n}", "split": "test" if n == 30 else "train"} for n in range(40)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"rows\.jsonl:31: its 'split' is 'test'"):
        read_records(file, "texts")
    kept = read_records(file, "texts", DataOptions(on_error="skip"))
    assert all("number 30" not in one.text for split in kept.splits.values() for one in split)
    assert kept.counts.skipped["held_out"] == 1
    assert sum(map(len, read_records(file, "texts", DataOptions(ignore_keys=["split"])).splits.values())) == 40
    (tmp_path / "divided").mkdir()
    for name in ("train", "test"):
        said = [row for row in rows if row["split"] == name]
        (tmp_path / "divided" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    assert len(read_records(tmp_path / "divided", "texts")["test"]) == 1


@pytest.mark.parametrize("text", ["مرحبا بالعالم", "Größe"])
def test_utf8_read_as_another_encoding_is_told_of_once(tmp_path, caplog, text):
    rows = "".join(json.dumps({"text": f"{text} {n}"}, ensure_ascii=False) + "\n" for n in range(4))
    file = tmp_path / "data.jsonl"
    file.write_text(rows, encoding="utf-8")
    read_records(str(file), "texts", DataOptions(encoding="latin-1"))
    (told,) = [record.getMessage() for record in caplog.records if "is UTF-8" in record.getMessage()]
    assert told.startswith(f"{file}:1: is UTF-8 and is read as data.encoding=")
    caplog.clear()
    own = "windows-1252" if text == "Größe" else "windows-1256"
    (tmp_path / "own.jsonl").write_bytes(rows.encode(own))
    read_records(str(tmp_path / "own.jsonl"), "texts", DataOptions(encoding=own))
    assert "is UTF-8" not in caplog.text
