"""data.columns: every kind of data and of file, what makes no sense, and the map that a message proposes."""

import json
from dataclasses import replace

import pytest

from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.data.column_map import as_mapping, written
from lit_llm.data.options import DataOptions, InstructionsOptions, PromptsOptions
from lit_llm.data.reading import read_records
from lit_llm.errors import UserError


def put(folder, name, rows):
    file = folder / name
    if name.endswith(".csv"):
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def records(path, kind, **options):
    return read_records(path, kind, DataOptions(validation_fraction=0, test_fraction=0, **options))["train"]


@pytest.mark.parametrize(
    ("kind", "row", "columns"),
    [
        ("texts", {"text": "a b"}, {"body": "text"}),
        ("examples", {"prompt": "a", "completion": "b"}, {"سؤال": "prompt", "the reply": "completion"}),
        ("comparisons", {"prompt": "a", "chosen": "b", "rejected": "c"}, {"good": "chosen", "bad": "rejected"}),
        ("labels", {"prompt": "a", "completion": "b", "label": True}, {"ok": "label"}),
        ("prompts", {"question": "40 + 2?", "answer": "#### 42"}, {"task": "question", "final": "answer"}),
        ("prompts", {"prompt": "a"}, {"q": "prompt"}),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_rows_under_other_names_are_the_same_records(tmp_path, name, kind, row, columns):
    theirs = {ours: column for column, ours in columns.items()}
    other = put(tmp_path, name, [{theirs.get(key, key): value for key, value in row.items()}])
    own = put(tmp_path, "own.jsonl", [row])
    wanted = [replace(one, source="") for one in records(own, kind)]
    assert [replace(one, source="") for one in records(other, kind, columns=columns)] == wanted
    assert [replace(one, source="") for one in records(other, kind, columns=str(columns))] == wanted


def test_names_may_be_swapped_and_a_row_may_lack_a_column(tmp_path):
    file = put(tmp_path, "a.jsonl", [{"prompt": "x", "completion": "y"}, {"question": "a", "answer": "b"}])
    found = records(file, "examples", columns={"prompt": "completion", "completion": "prompt"})
    assert [[m.content for m in one.messages] for one in found] == [["y", "x"], ["a", "b"]]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"qestion": "prompt"}, "data.columns.qestion=prompt: no row has this column; the rows have question, reply, "
                                "prompt; did you mean question?"),
        ({"question": "promt"}, "data.columns.question=promt: no format here reads it; .*did you mean prompt?"),
        ({"question": "prompt", "reply": "completion"}, r"a.jsonl:1: data.columns makes 'question' to 'prompt', which "
                                                        "the row has too"),
        ({"question": "prompt", "reply": "prompt"}, "'question' and 'reply' both become 'prompt'"),
        ("a, b", "data.columns=a, b: a map is needed"),
        ({"question": 3}, "a map is needed, from the rows' names to the format's"),
    ],
)  # fmt: skip
def test_a_map_that_makes_no_sense_is_one_line(tmp_path, columns, line):
    file = put(tmp_path, "a.jsonl", [{"question": "a", "reply": "b", "prompt": "c"}])
    with pytest.raises(UserError, match=line) as error:
        records(file, "examples", columns=columns)
    assert "\n" not in str(error.value)


def test_options_refuse_it_before_anything_is_read():
    with pytest.raises(UserError, match="both become"):
        InstructionsOptions(path="a", columns={"a": "prompt", "b": "prompt"})
    prompts = PromptsOptions(columns={"q": "prompt"}, ptx_path="b.txt")
    assert prompts.pretraining_text().columns is None


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        ({"question": "a", "reply": "b"}, "examples", "'data.columns={reply: answer}' makes it question_answer"),
        ({"query": "a", "response": "b", "id": 3}, "examples",
         "'data.columns={query: prompt, response: completion}' makes it prompt_completion"),
        ({"سؤال": "a", "جواب": "b"}, "examples",
         "'data.columns={سؤال: prompt, جواب: completion}' would make it prompt_completion, if that"),
        ({"Frage": "a", "Antwort": "b"}, "examples", "would make it prompt_completion, if that is what they hold"),
        ({"body": "a", "url": "b"}, "texts", "'data.columns={body: text}' makes it text"),
        ({"chat": [{"role": "user", "content": "a"}]}, "examples", "'data.columns={chat: messages}' makes it messages"),
        ({"prompt": "a", "preferred": "b", "dispreferred": "c"}, "comparisons",
         "'data.columns={preferred: chosen, dispreferred: rejected}' makes it preference_pair"),
        ({"prompt": "a", "answers": ["b"], "rank": [1]}, "comparisons",
         "'data.columns={answers: completions, rank: ranking}'"),
    ],
)  # fmt: skip
def test_the_map_that_a_message_proposes_makes_the_row_fit(tmp_path, row, kind, said):
    file = put(tmp_path, "a.jsonl", [row])
    with pytest.raises(UserError) as error:
        records(file, kind)
    assert said in str(error.value) and "did you mean" not in str(error.value)  # one proposal
    proposed = str(error.value).partition("data.columns=")[2].partition("'")[0]
    if "ranking" not in proposed and "messages" not in proposed:
        assert records(file, kind, columns=proposed)


def test_rows_of_other_kinds_get_no_map(tmp_path):
    file = put(tmp_path, "a.jsonl", [{"chosen": "a", "rejected": "b"}])
    with pytest.raises(UserError, match=r"this is for data=preferences") as error:
        records(file, "examples")
    assert "data.columns" not in str(error.value)


@pytest.mark.parametrize(
    "columns", [{"question": "prompt"}, {"سؤال": "prompt", "الجواب هنا": "completion"}, {"a: b": "text"}]
)
def test_the_command_line_takes_names_in_any_script(columns):
    word = written(columns)[1:-1]
    words = ["stage=instruction_tuning", "data.path=a.jsonl", word]
    given = compose("train", words).data.columns
    assert as_mapping(given if isinstance(given, str) else dict(given)) == columns
    with pytest.raises(UserError) as error:  # all that is wrong is that there is no such file
        check("train", hydra_words("train", words))
    assert "columns" not in str(error.value)
