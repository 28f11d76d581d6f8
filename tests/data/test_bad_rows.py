"""All that is wrong is said at once: by reason, the first ten of each, with counts; one bad row is one line."""

import json
import re

import pytest

from lit_llm.data import bad_rows
from lit_llm.data.bad_rows import BadRows
from lit_llm.data.options import DataOptions
from lit_llm.data.reading import read_records
from lit_llm.data.row_errors import RowError
from lit_llm.errors import UserError


def put(folder, name, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def said(path):
    with pytest.raises(UserError) as error:
        read_records(path, "texts")
    return str(error.value).split("\n")


def test_bad_rows_and_files_of_all_splits_end_in_one_error(tmp_path):
    good = [{"text": f"t{n}"} for n in range(30)]
    train = put(tmp_path, "train.jsonl", [*good, "{", *[{"txt": n} for n in range(14)], {"text": "t1"}, "["])
    test = put(tmp_path, "test.jsonl", [{"text": "x", "tools": [1]}, {"text": "y"}])
    packed = tmp_path / "train_2.jsonl.gz"
    packed.write_bytes(b"no gzip")
    lines = said(str(tmp_path))
    assert lines[0] == (
        f"data.path={tmp_path}: 17 of 49 rows are bad, and 1 of 3 files cannot be read (data.on_error=skip counts "
        "such rows and files and goes on)"
    )
    assert lines[1].startswith("unknown_format: 14, the first 10:")
    assert lines[2] == f"  {train}:{', '.join(map(str, range(32, 42)))}"
    assert lines[3].startswith("malformed_json: 2:")
    assert [line.split(": ")[0] for line in lines[4:6]] == [f"  {train}:31", f"  {train}:47"]
    rest = "\n".join(lines[6:])
    assert f"damaged_file: 1:\n  {packed}:1: cannot be read further" in rest
    assert f"unknown_key: 1:\n  {test}:1: key 'tools' would be dropped" in rest


def test_one_bad_row_is_a_line_and_duplicates_are_no_errors(tmp_path):
    file = put(tmp_path, "a.jsonl", [{"text": "a"}, {"text": "a"}, {"txt": "b"}, {"text": " "}])
    [line] = said(file)
    assert line.startswith(f"{file}:3: no known format") and line.endswith(bad_rows.GO_ON.format("rows"))


def test_a_long_file_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(bad_rows, "FURTHER", 50)
    file = put(tmp_path, "a.jsonl", [{"text": "a"}, *[{"txt": n} for n in range(2000)]])
    lines = said(file)
    assert lines[0].startswith(
        f"data.path={file}: 51 of 52 rows are bad; the rows behind these were not looked at (data.on_error=skip"
    )
    assert lines[1].startswith("unknown_format: 51, the first 10:")
    assert lines[2:] == [f"  {file}:{', '.join(map(str, range(2, 12)))}"]


def test_one_cause_is_one_line_with_its_remedy_and_one_of_places_in_each_file(tmp_path):
    lines = said(put(tmp_path, "a.jsonl", [{"txt": f"t{n}"} for n in range(30)]))
    assert lines[1].startswith("unknown_format: 30, the first 10: no known format") and "{txt: text}" in lines[1]
    assert lines[2:] == [f"  {tmp_path}/a.jsonl:1, 2, 3, 4, 5, 6, 7, 8, 9, 10"]
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text("txt\none\ntwo\n")
    (folder / "c.json").write_text(json.dumps([{"body": "x"}, {"body": "y"}]))
    lines = said(str(folder))
    assert lines[1] == "unknown_format: 6:"
    assert [line.split(": no known")[0] for line in lines[2:]] == [
        f"  {folder}/a.csv:2, 3", f"  {folder}/b.csv:2, 3", f"  {folder}/c.json:item 1, 2",
    ]  # fmt: skip
    assert "{txt: text}" in lines[2] and "{body: text}" in lines[4]


def test_the_map_that_is_proposed_holds_the_one_that_is_given(tmp_path):
    (tmp_path / "qa.csv").write_text("question,reply\n" + "".join(f"q{n},a{n}\n" for n in range(12)))
    file = str(tmp_path / "qa.csv")
    for given in (None, {"question": "prompt"}, {"question": "question"}, {"reply": "completion"}):
        with pytest.raises(UserError) as error:
            read_records(file, "examples", DataOptions(columns=given))
        lines = str(error.value).split("\n")
        assert len(lines) == 3 and lines[2].endswith("qa.csv:2, 3, 4, 5, 6, 7, 8, 9, 10, 11")
        [told] = re.findall(r"data\.columns=(\{.*?\})", lines[1])
        assert len(read_records(file, "examples", DataOptions(columns=told, test_fraction=0))["train"]) > 5


def test_one_of_several_is_no_plural(tmp_path):
    lines = said(put(tmp_path, "a.jsonl", [{"text": "a"}, {"txt": "b"}, "{"]))
    assert lines[0].startswith(f"data.path={tmp_path}/a.jsonl: 2 of 3 rows are bad")
    with pytest.raises(UserError, match="1 of 3 rows is bad, more than"):
        read_records(
            put(tmp_path, "b.jsonl", [{"text": "a"}, {"txt": "b"}, {"text": "c"}]),
            "texts",
            DataOptions(on_error="skip"),
        )


def test_broken_rows_are_said_before_a_column_that_none_of_them_can_have(tmp_path):
    broken = put(tmp_path, "a.jsonl", ['{"txt":'] * 5)
    for how, wanted in (("stop", "malformed_json: 5"), ("skip", "no usable row .*malformed_json 5")):
        with pytest.raises(UserError, match=wanted):
            read_records(broken, "texts", DataOptions(columns={"txt": "text"}, on_error=how))
    misspelt = put(tmp_path, "b.jsonl", [{"txt": "a"}, {"txt": "b"}])
    with pytest.raises(UserError, match=r"data\.columns\.tx=text: no row has this column"):
        read_records(misspelt, "texts", DataOptions(columns={"tx": "text"}))


def test_documents_and_texts_beside_rows_say_what_they_are_for(tmp_path):
    put(tmp_path, "train.jsonl", [{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(4)])
    for name in ("spa.docx", "lease.pdf", "notes.txt", "README.md"):
        (tmp_path / name).write_bytes(b"a document")
    kinds = read_records(str(tmp_path), "examples", DataOptions(test_fraction=0)).counts.overview.kinds
    told = {"documents are texts: for stage=pretraining or continued_pretraining": 1}
    assert kinds[".docx"].unread == kinds[".pdf"].unread == told
    assert kinds[".txt"].unread == {"texts are for stage=pretraining or continued_pretraining": 1}
    assert kinds[".md"].unread == {"tells of data": 1}


WANTED = {
    "examples": ("stage=fine_tuning, instruction_tuning", "messages; conversations; instruction + output"),
    "comparisons": ("stage=reward_modeling, dpo", "chosen + rejected"),
    "labels": ("stage=kto", "prompt + completion + label"),
    "prompts": ("stage=ppo, grpo", "prompt"),
}


@pytest.mark.parametrize("kind", WANTED)
def test_texts_alone_are_told_what_rows_are_wanted_before_one_is_read(tmp_path, kind, monkeypatch):
    from lit_llm.data.documents import reading

    monkeypatch.setattr(reading, "read_documents", lambda *_: pytest.fail("a document is read"))
    for names in (("spa.docx", "lease.pdf", "notes.txt"), ("notes.txt",), ("lease.pdf",)):
        folder = tmp_path / str(len(names)) / names[0]
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(b"a document")
        for path in (str(folder), [str(folder / name) for name in sorted(names)]):
            with pytest.raises(UserError) as error:
                read_records(path, kind)
            line = str(error.value)
            number = f"{len(names)} texts" if len(names) > 1 else "1 text"
            assert f"{number} and no rows; texts are for stage=continued_pretraining (or pretraining)" in line
            assert all(each in line for each in WANTED[kind]) and f"the first: {folder}/{sorted(names)[0]}" in line
            assert "did you mean" not in line and "\n" not in line
    texts = put(tmp_path, "a.jsonl", [{"text": "one", "url": "x"}])
    with pytest.raises(UserError, match=r"; this is for data=raw_text \(stage=pretraining, continued_pre") as error:
        read_records(texts, kind)
    assert "did you mean" not in str(error.value)


def test_a_file_of_utf_16_rows_is_one_error_and_so_is_an_empty_file_of_any_kind(tmp_path):
    good = [{"text": f"row {n}"} for n in range(30)]
    put(tmp_path, "a.jsonl", good)
    (tmp_path / "wide.jsonl").write_bytes("".join(json.dumps(row) + "\n" for row in good).encode("utf-16"))
    for name in ("b.json", "c.parquet", "d.tar", "e.csv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "f.jsonl").write_bytes(b"")  # an empty shard is no error
    lines = said(str(tmp_path))
    assert lines[0].startswith(f"data.path={tmp_path}: 5 of 7 files cannot be read")
    [wide] = [line for line in lines if "wide.jsonl" in line]
    assert "UTF-16 text; save it as UTF-8" in wide
    assert "empty_file: 4:" in lines and "f.jsonl" not in "\n".join(lines)
    kinds = read_records(str(tmp_path), "texts", DataOptions(on_error="skip", max_error_rate=1.0)).counts.overview.kinds
    assert kinds[".jsonl"].unread == {"without_rows": 1, "invalid_utf8": 1}
    assert kinds[".json"].unread == {"empty_file": 1}


def test_files_of_a_saved_page_and_of_programs_are_no_data(tmp_path):
    (tmp_path / "page.txt").write_text("The rent is due.")
    for name in ("a.js", "b.css", "c.woff2", "Thumbs.db", "desktop.ini", "~$page.docx"):
        (tmp_path / name).write_bytes(b"x")
    overview = read_records(str(tmp_path), "texts").counts.overview
    assert overview.warnings() == [] and overview.kinds.keys() == {".txt", ".js", ".css", ".woff2"}


def test_a_column_with_a_blank_at_its_end_can_be_named(tmp_path):
    file = put(tmp_path, "a.jsonl", [{"Text ": f"row {n}"} for n in range(12)])
    [told] = re.findall(r"data\.columns=(\{.*?\})", said(file)[1])
    assert (
        len(read_records(file, "texts", DataOptions(columns=told, test_fraction=0, validation_fraction=0))["train"])
        == 12
    )


def test_bad_rows_that_are_left_out_are_named_from_every_part_of_the_data():
    first, second = BadRows(), BadRows()
    for number in range(12):
        (first if number < 4 else second).add(RowError("empty_turn", f"a.jsonl:{number + 1}: 'reply' is empty"))
    second.add(RowError("damaged_file", "b.parquet: cannot be read"))
    whole = BadRows()
    for part in (first, second):
        whole.join_plain(json.loads(json.dumps(part.plain())))
    assert whole.plain()["empty_turn"] == {
        "number": 12, "first": [f"a.jsonl:{number}: 'reply' is empty" for number in range(1, 11)],
    }  # fmt: skip
    assert list(whole.lines()) == [
        "bad, empty_turn 12: a.jsonl:1, 2, 3 and 9 more: 'reply' is empty",
        "bad, damaged_file 1: b.parquet: cannot be read",
    ]
