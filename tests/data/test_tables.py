"""CSV and TSV: rows by the line where they begin, cells as texts or JSON, and what is no table named by its line."""

import csv
import gzip
import io
import json
import lzma

import pytest

from lit_llm.data import tables
from lit_llm.data.file_rows import read_rows
from lit_llm.data.options import DataOptions
from lit_llm.data.reading import read_records
from lit_llm.data.row_errors import RowError
from lit_llm.errors import UserError


def put(folder, name, text, encoding="utf-8"):
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return str(file)


def told(file, encoding="utf-8"):
    """(line, cells) of rows, (reason, message) of what is none."""
    return [(row.reason, str(row)) if isinstance(row, RowError) else (row.line, row.value)
            for row in read_rows([file], encoding)]  # fmt: skip


TEXTS = [
    "plain",
    'a "quote", a comma; a semicolon',
    "two\nlines\n\nand a blank one",
    "من يدفع؟ \tسطر",
    " blanks ",
    "1_000",
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_another_writer_wrote_is_read_cell_by_cell(tmp_path, delimiter, end):
    written = io.StringIO()
    rows = [{"prompt": text, "completion": other} for text in TEXTS for other in TEXTS]
    writer = csv.DictWriter(written, ["prompt", "completion"], delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    text = "\ufeff" + written.getvalue()
    name = "a.tsv" if delimiter == "\t" else "a.csv"
    found = told(put(tmp_path, name, text))
    assert [value for _, value in found] == rows
    before = text.split(end)  # a row's line is where it begins: no cell that comes before holds another end
    assert found[0][0] == 2
    if end == "\n":
        assert [before[line - 1].lstrip('"')[:3] for line, _ in found] == [
            row["prompt"].split("\n")[0][:3].replace('a "', 'a "') for row in rows
        ]
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert told(str(packed)) == [(line, value) for line, value in found]


def test_compressions_and_encodings(tmp_path):
    text = "text;note\nGrüße;ä\n"
    file = tmp_path / "a.csv.xz"
    file.write_bytes(lzma.compress(text.encode()))
    assert told(str(file)) == [(2, {"text": "Grüße", "note": "ä"})]
    assert told(put(tmp_path, "latin.csv", text, "latin-1"), "iso8859-1") == [(2, {"text": "Grüße", "note": "ä"})]
    assert told(put(tmp_path, "wide.csv", text, "utf-16"), "utf-16") == [(2, {"text": "Grüße", "note": "ä"})]
    [(reason, line), after] = told(put(tmp_path, "bad.csv", b"text,n\n\xff,1\nok,2\n"))
    assert reason == "invalid_utf8" and "bad.csv:2: byte 1 (0xff) is no UTF-8" in line
    assert after == (3, {"text": "ok", "n": "2"})


@pytest.mark.parametrize(
    ("encoding", "question", "answer"),
    [
        ("cp1252", "Wer zahlt in der Königstraße?", "Der Mieter, für alle Schäden."),
        ("cp1256", "من يدفع الإيجار في أول كل شهر؟", "يدفع المستأجر الإيجار"),
        ("utf-16", "Wer zahlt in der Königstraße?", "من يدفع؟"),
        ("utf-16-le", "Wer zahlt in der Königstraße?", "Der Mieter."),
    ],
)
def test_a_table_in_an_old_encoding_is_read_and_told_once(tmp_path, encoding, question, answer):
    """As Excel saves it; rows of ASCII come first, so that the beginning says nothing."""
    before = "Who pays?;The tenant.\n" * 300
    text = f"prompt;completion\n{before}" + f"{question};{answer}\n" * 3
    file = put(tmp_path, "a.csv", text, encoding)
    found = list(read_rows([file], "auto"))
    assert [row.value for row in found[-3:]] == [{"prompt": question, "completion": answer}] * 3
    assert found[0].value == {"prompt": "Who pays?", "completion": "The tenant."} and len(found) == 303
    assert [row.encoding for row in found if row.encoding] == [encoding]


def test_a_damaged_place_of_utf8_is_no_other_encoding(tmp_path):
    file = put(tmp_path, "a.csv", "text,n\nGrüße,1\n".encode() + b"Gr\xfc\xdfe,2\nok,3\n")
    first, bad, last = told(file, "auto")
    assert (first, last) == ((2, {"text": "Grüße", "n": "1"}), (4, {"text": "ok", "n": "3"}))
    assert bad[0] == "invalid_utf8" and f"{file}:3: byte 3 (0xfc) is no UTF-8" in bad[1]
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(b"text,n\nok,1\n")[:-9])
    assert [reason for reason, _ in told(str(packed), "auto")] == ["damaged_file"]


def test_a_wrong_number_of_cells_is_told_by_the_line_where_the_row_begins(tmp_path):
    file = put(tmp_path, "a.csv", 'prompt,completion\n"a\nb",c\nd\n\n"e\nf",g,h\ni,j\n,,\n')
    first, few, many, last = told(file)
    assert (first, last) == ((2, {"prompt": "a\nb", "completion": "c"}), (8, {"prompt": "i", "completion": "j"}))
    assert few[0] == many[0] == "wrong_cells"
    assert few[1].startswith(f"{file}:4: 1 cell, and the header names 2 columns; a cell that holds ','")
    assert many[1].startswith(f"{file}:6: 3 cells")


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("", "empty_file", "a.csv: no line; the first row of a table names its columns"),
        ("a,b,a\n1,2,3\n", "duplicate_key", "a.csv:1: the header names the column 'a' twice"),
        ('a,b\n"x" y,2\n', "malformed_table", "a.csv:2: not CSV"),
        ('a,b\nx,"never closed\ny,z\n', "malformed_table", "a.csv:2: a quote in this row is never closed (2 lines"),
        ("a,b\rx,y\r", "malformed_table", "a.csv:1: a line end of old Macs"),
        ("a,,c\n1,2,3\n", "unnamed_column", "a.csv:2: a cell in a column that the header gives no name"),
        ("a,b\nx" + "\0x" * 400 + ",y\n", "nul_byte", "a.csv:2: 400 of"),
    ],
)
def test_what_is_no_table(tmp_path, text, reason, line):
    found = told(put(tmp_path, "a.csv", text))
    assert [one[0] for one in found] == [reason]
    assert found[0][1].startswith(f"{tmp_path}/{line}")


def test_a_cell_without_an_end_ends_the_file_and_not_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_CELL", 5000)
    found = told(put(tmp_path, "a.csv", 'a,b\n1,2\n3,"' + "line\n" * 4000))
    assert found[0] == (2, {"a": "1", "b": "2"})
    assert [one[0] for one in found[1:]] == ["cell_too_long"]
    assert f"{tmp_path}/a.csv:3: " in found[1][1]


def test_names_of_columns_and_what_programs_put_first(tmp_path):
    assert told(put(tmp_path, "excel.csv", "sep=;\n a ; b\n1;2,3\n")) == [(3, {"a": "1", "b": "2,3"})]
    assert told(put(tmp_path, "pandas.csv", ",text\n0,x\n")) == [(2, {"index": "0", "text": "x"})]
    assert told(put(tmp_path, "ends.csv", "a,b,\n1,2,\n")) == [(2, {"a": "1", "b": "2"})]
    # One column: its cells may hold any other delimiter. A comma in all rows does not outvote the header's.
    assert told(put(tmp_path, "one.csv", "text\nx;y\nz;w\n")) == [(2, {"text": "x;y"}), (3, {"text": "z;w"})]
    assert told(put(tmp_path, "dutch.csv", "a;b\n1,5;2,5\n3,5;4,5\n"))[1] == (3, {"a": "3,5", "b": "4,5"})


def records(folder, text, kind, **options):
    wanted = {"validation_fraction": 0, "test_fraction": 0, **options}
    return read_records(put(folder, "a.csv", text), kind, DataOptions(**wanted))["train"]


def as_csv(rows):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(
        {key: cell if isinstance(cell, str) else json.dumps(cell) for key, cell in row.items()} for row in rows
    )
    return out.getvalue()


TURNS = [{"role": "user", "content": "من؟"}, {"role": "assistant", "content": "[1, 2]", "weight": 1}]
KINDS = {
    "texts": [{"text": "42"}, {"text": "[1, 2]", "source": "b"}],
    "examples": [
        {"messages": TURNS, "weight": 1},
        {"prompt": "1", "completion": "[true]"},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"instruction": "a", "output": "2", "history": [["b", "c"]]},
    ],
    "comparisons": [
        {"prompt": "a", "completions": ["x", "y", "z"], "ranking": [1, 2, 2], "weight": 0.5, "simulated": True},
        {"prompt": "a", "chosen": "1", "rejected": "2", "margin": 1.5},
        {side: [TURNS[0], {"role": "assistant", "content": side}] for side in ("chosen", "rejected")},
        {"prompt": "a", "chosen": "p", "rejected": "q", "score_chosen": 4.5, "score_rejected": 1.0},
    ],
    "labels": [{"prompt": "a", "completion": "7", "label": True}, {"messages": TURNS, "label": False}],
    "prompts": [{"question": "40 + 2?", "answer": "#### 42"}, {"messages": TURNS[:1]}],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "row"), [(kind, row) for kind, rows in KINDS.items() for row in rows])
def test_a_table_says_what_the_same_rows_of_jsonl_say(tmp_path, kind, row):
    from dataclasses import replace

    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps(row) + "\n")
    wanted = read_records(str(lines), kind, DataOptions(validation_fraction=0, test_fraction=0))["train"]
    found = records(tmp_path, as_csv([row]), kind)
    assert [replace(one, source="") for one in found] == [replace(one, source="") for one in wanted]
    assert [one.source for one in found] == [f"{tmp_path}/a.csv:2"]


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("prompt,completions,ranking\np,x;y,1;2\n", "comparisons", "'completions' is 'x;y'; JSON is needed"),
        ('prompt,completions,ranking\np,"[""x"",""y""]",2\n', "comparisons", "'ranking' is '2'; a list in JSON is"),
        ("prompt,completion,label\np,c,good\n", "labels", "'label' is 'good'; true or false is needed"),
        ('prompt,chosen,rejected,margin\np,c,d,"0,5"\n', "comparisons", "'margin' is '0,5'; a number is needed"),
        ("messages\n\"[{'role': 'user'}]\"\n", "examples", "this is Python's writing: json.dumps writes JSON"),
        ('messages\n"[{""role"": 1, ""role"": 2}]"\n', "examples", "an object has a key twice"),
        ("question,answer\nq,\n", "examples", "'answer' is empty; it needs a text"),
        ("text,audience,tools\nx,,y\n", "texts", "key 'tools' would be dropped"),
    ],
)
def test_a_cell_that_is_not_what_the_format_needs_is_refused_by_name(tmp_path, text, kind, line):
    with pytest.raises(UserError) as error:
        records(tmp_path, text, kind)
    assert line in str(error.value) and str(error.value).startswith(f"{tmp_path}/a.csv:2: ")


def test_an_empty_cell_says_nothing_and_labels_may_be_numbers(tmp_path):
    [one] = records(tmp_path, "instruction,input,output,system,weight\na,,b,,\n", "examples")
    assert [message.content for message in one.messages] == ["a", "b"]
    assert [one.label for one in records(tmp_path, "prompt,completion,label\na,b,1\na,c,FALSE\n", "labels")] == [
        True,
        False,
    ]


def test_a_function_of_the_users_gets_the_cells(tmp_path, monkeypatch):
    (tmp_path / "own_cells.py").write_text(
        "from lit_llm.records import Document\n\ndef made(row):\n    return Document(repr(sorted(row.items())))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    [one] = records(tmp_path, "label,messages,empty\ntrue,[],\n", "texts", format="own_cells.made")
    assert one.text == "[('label', 'true'), ('messages', '[]')]"
