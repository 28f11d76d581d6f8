"""All that is wrong is said at once: by reason, the first ten of each, with counts; one bad row is one line."""

import json

import pytest

from lit_llm.data import bad_rows
from lit_llm.data.options import DataOptions
from lit_llm.data.reading import read_records
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
    assert [line.split(": ")[0] for line in lines[2:12]] == [f"  {train}:{n}" for n in range(32, 42)]
    assert lines[12].startswith("malformed_json: 2:")
    assert [line.split(": ")[0] for line in lines[13:15]] == [f"  {train}:31", f"  {train}:47"]
    rest = "\n".join(lines[15:])
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
    assert len(lines) == 12


def test_the_remedy_of_a_reason_is_said_once(tmp_path):
    lines = said(put(tmp_path, "a.jsonl", [{"txt": f"t{n}"} for n in range(30)]))
    assert lines[1].startswith("unknown_format: 30, the first 10: no known format") and "{txt: text}" in lines[1]
    assert lines[2:] == [f"  {tmp_path}/a.jsonl:{n}" for n in range(1, 11)]


def test_broken_rows_are_said_before_a_column_that_none_of_them_can_have(tmp_path):
    broken = put(tmp_path, "a.jsonl", ['{"txt":'] * 5)
    for how, wanted in (("stop", "malformed_json: 5"), ("skip", "no usable row .*malformed_json 5")):
        with pytest.raises(UserError, match=wanted):
            read_records(broken, "texts", DataOptions(columns={"txt": "text"}, on_error=how))
    misspelt = put(tmp_path, "b.jsonl", [{"txt": "a"}, {"txt": "b"}])
    with pytest.raises(UserError, match=r"data\.columns\.tx=text: no row has this column"):
        read_records(misspelt, "texts", DataOptions(columns={"tx": "text"}))


def test_documents_beside_rows_say_what_they_are_for(tmp_path):
    put(tmp_path, "train.jsonl", [{"prompt": f"q{n}", "completion": f"a{n}"} for n in range(4)])
    for name in ("spa.docx", "lease.pdf"):
        (tmp_path / name).write_bytes(b"a document")
    kinds = read_records(str(tmp_path), "examples", DataOptions(test_fraction=0)).counts.overview.kinds
    told = {"documents are texts: for stage=pretraining or continued_pretraining": 1}
    assert kinds[".docx"].unread == kinds[".pdf"].unread == told
