"""Every accepted shape gives its record; every wrong one is a line that says what would be right."""

import pytest

from lit_llm.data.formats import FORMATS, find_format, parse_row
from lit_llm.data.sources import Row
from lit_llm.data.streams import RowError
from lit_llm.errors import UserError
from lit_llm.records import Comparison, Document, Example, Message, Prompt

U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))
HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: why?\n\nAssistant: "


def parse(value, kind, name=None):
    return parse_row(Row(value, "data.jsonl", 7), kind, find_format(name, kind))


def chat(*pairs):
    return [{"role": r, "content": c} for r, c in pairs]


EXAMPLES = [
    ({"source": "a", "target": "b", "task": "t"}, (U("a"), A("b")), {"task": "t"}),
    ({"prompt": "a", "completion": "b"}, (U("a"), A("b")), {}),
    ({"prompt": chat(("user", "a")), "completion": chat(("assistant", "b"))}, (U("a"), A("b")), {}),
    ({"instruction": "a", "input": "", "output": "b"}, (U("a"), A("b")), {}),
    ({"instruction": "a", "input": "c", "output": "b"}, (U("a\n\nc"), A("b")), {}),
    ({"question": "a", "answer": "b"}, (U("a"), A("b")), {}),
    ({"messages": chat(("system", "s"), ("user", "a"), ("assistant", "b"))}, (S("s"), U("a"), A("b")), {}),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, *chat(("assistant", "b"))]},
        (U("a"), A("b")),
        {},
    ),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, (U("a"), A("b")), {}),
    (
        {"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "id": 3},
        (S("s"), U("a"), A("b")),
        {"id": "3"},
    ),
]


@pytest.mark.parametrize(("value", "messages", "tags"), EXAMPLES)
def test_examples(value, messages, tags):
    assert parse(value, "examples") == Example(messages, "data.jsonl:7", tags)


PAIR = Comparison((U("q"),), ("good", "bad"), (1, 2), source="data.jsonl:7")
PAIRS = [
    {"prompt": "q", "chosen": "good", "rejected": "bad"},
    {"prompt": chat(("user", "q")), "chosen": "good", "rejected": "bad"},
    {"prompt": chat(("user", "q")), "chosen": chat(("assistant", "good")), "rejected": chat(("assistant", "bad"))},
    {"prompt": "q", "chosen": chat(("assistant", "good")), "rejected": "bad"},
    {
        "prompt": "q",
        "chosen": chat(("user", "q"), ("assistant", "good")),
        "rejected": chat(("user", "q"), ("assistant", "bad")),
    },
    {"chosen": chat(("user", "q"), ("assistant", "good")), "rejected": chat(("user", "q"), ("assistant", "bad"))},
    {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
    {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "good", "rejected": "bad"},
]


@pytest.mark.parametrize("value", PAIRS)
def test_pairs_with_explicit_and_implicit_prompts(value):
    assert parse(value, "comparisons") == PAIR


def test_rankings_keep_ties_annotator_weight_and_flags():
    value = {"prompt": "q", "completions": ["a", "b", "c"], "ranking": [2, 1, 2], "annotator": "p1", "weight": 0.5}
    value |= {"simulated": True, "flags": [["violent"], [], []], "seconds": 9}
    got = parse(value, "comparisons")
    assert (got.completions, got.ranks, got.annotator, got.weight) == (("a", "b", "c"), (2, 1, 2), "p1", 0.5)
    assert got.simulated and got.tags == {"seconds": "9", "flags": '[["violent"], [], []]'}
    assert parse({"prompt": "q", "completions": ["a", "b"], "ranks": [1, 2]}, "comparisons").ranks == (1, 2)


def test_hh_dialogues_of_many_turns():
    got = parse({"chosen": HH + "x\n\nyes", "rejected": HH + "no"}, "comparisons")
    assert got.prompt == (U("hi"), A("hello"), U("why?"))
    assert got.completions == ("x\n\nyes", "no")


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "q"},
        {"question": "q"},
        {"question": "q", "answer": "an explanation " * 20},
        {"question": "q", "answer": None},
        {"instruction": "q", "output": "b"},
        {"messages": chat(("user", "q"))},
        {"messages": chat(("user", "q"), ("assistant", "a"))},
        {"conversations": [{"from": "human", "value": "q"}]},
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ],
)
def test_prompts_leave_answers_out(value):
    assert parse(value, "prompts") == Prompt((U("q"),), "data.jsonl:7")


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ({"question": "q", "answer": "48/2 = <<48/2=24>>24\n#### 1,072\n"}, {"answer": "1,072"}),
        ({"prompt": "q", "answer": 42, "level": 3}, {"answer": "42", "level": "3"}),
        ({"messages": chat(("user", "q")), "answer": "Paris"}, {"answer": "Paris"}),
        ({"problem": "q", "solution": "so " * 90 + r"\boxed{\frac{1}{2}}"}, {"answer": r"\boxed{\frac{1}{2}}"}),
    ],
)
def test_the_answer_to_a_problem_is_kept_as_a_tag(value, tags):
    assert parse(value, "prompts") == Prompt((U("q"),), "data.jsonl:7", tags)


def test_texts_from_rows_and_from_text_files():
    assert parse({"text": "a\r\nb\u200fc"}, "texts") == Document("a\nb\u200fc", "data.jsonl:7")
    assert parse_row(Row("a", "b.txt", 1), "texts") == Document("a", "b.txt:1")


WRONG = [
    ("prompts", {"question": "q", "answer": "work\n####"}, "empty_turn", "nothing behind its ####"),
    ("prompts", {"question": "q", "answer": True}, "wrong_type", "'answer' is True"),
    ("examples", {"prompt": "a", "completions": "b"}, "unknown_format", "did you mean 'completion' for 'completions'"),
    ("texts", {"txt": "a"}, "unknown_format", "keys found: txt; accepted: text; did you mean 'text' for 'txt'"),
    ("texts", {"chosen": "a", "rejected": "b"}, "unknown_format", "this is for data=preferences"),
    ("examples", {}, "unknown_format", "keys found: none"),
    ("texts", {"text": None}, "wrong_type", "'text' is null; a string"),
    ("texts", {"text": 5}, "wrong_type", "'text' is a int"),
    ("texts", {"text": "a\0b"}, "nul_byte", "NUL byte at character 1"),
    ("texts", {"text": "a\ud800"}, "invalid_unicode", "surrogate pair at character 1"),
    ("examples", {"source": "a", "target": " \n"}, "empty_turn", "'target' is empty"),
    ("examples", {"prompt": "a", "completion": "b", "label": False}, "labelled", "KTO"),
    ("examples", {"messages": "hello"}, "wrong_type", "a list of messages"),
    ("examples", {"messages": []}, "empty_turn", "empty list"),
    ("examples", {"messages": ["a"]}, "wrong_type", r"messages\[0\]"),
    ("examples", {"messages": [{"role": "user"}]}, "missing_field", "has keys role; role and content"),
    ("examples", {"messages": chat(("usr", "a"))}, "unknown_role", "did you mean 'user'"),
    (
        "examples",
        {"messages": chat(("user", "a"), ("user", "b"))},
        "role_order",
        "turn 2 is the user's; the assistant's",
    ),
    ("examples", {"messages": chat(("assistant", "a"))}, "role_order", "turn 1 is the assistant's; the user's"),
    ("examples", {"messages": chat(("user", "a"), ("system", "b"))}, "role_order", "turn 2 is the system's"),
    ("examples", {"messages": chat(("system", "a"))}, "last_role", "the last turn is missing"),
    ("examples", {"messages": chat(("user", "a"))}, "last_role", "the assistant's is needed"),
    ("examples", {"messages": chat(("user", "a"), ("assistant", ""))}, "empty_turn", r"messages\[1\].content"),
    ("prompts", {"prompt": chat(("user", "a"), ("assistant", "b"))}, "last_role", "the user's is needed"),
    ("comparisons", {"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen_is_rejected", "must differ"),
    ("comparisons", {"prompt": "q", "chosen": "a", "rejected": ""}, "empty_turn", "'rejected' is empty"),
    ("comparisons", {"chosen": "a", "rejected": "b"}, "missing_field", "add 'prompt'"),
    (
        "comparisons",
        {"chosen": HH + "a", "rejected": "\n\nHuman: other\n\nAssistant: b"},
        "prompts_differ",
        "must be equal",
    ),
    ("comparisons", {"chosen": HH + "a", "rejected": HH}, "empty_turn", "turn 4"),
    ("comparisons", {"chosen": HH + "a", "rejected": "b"}, "not_a_transcript", "does not begin with"),
    ("comparisons", {"chosen": HH + "a\n\nHuman: c", "rejected": HH + "b"}, "last_role", "assistant's is needed"),
    ("comparisons", {"chosen": HH + "a\n\nAssistant: c", "rejected": HH + "b"}, "role_order", "turn 5"),
    ("comparisons", {"prompt": "q", "completions": ["a"], "ranking": [1]}, "not_a_ranking", "needs 2 or more"),
    ("comparisons", {"prompt": "q", "completions": ["a", "a"], "ranking": [1, 2]}, "duplicate_completions", "the same"),
    ("comparisons", {"prompt": "q", "completions": "ab", "ranking": [1, 2]}, "wrong_type", "a list of texts"),
    (
        "comparisons",
        {"prompt": "q", "completions": ["a", "b"], "ranking": [0, 1]},
        "not_a_ranking",
        "0 is outside 1 to 2",
    ),
    ("comparisons", {"prompt": "q", "completions": ["a", "b"], "ranking": [1, 3]}, "not_a_ranking", "3 is outside"),
    (
        "comparisons",
        {"prompt": "q", "completions": ["a", "b"], "ranking": [2, 2]},
        "not_a_ranking",
        "nothing has rank 1",
    ),
    ("comparisons", {"prompt": "q", "completions": ["a", "b"], "ranking": [1]}, "not_a_ranking", "1 ranks for 2"),
    (
        "comparisons",
        {"prompt": "q", "completions": ["a", "b"], "ranking": [1, True]},
        "not_a_ranking",
        "no whole number",
    ),
    (
        "comparisons",
        {"prompt": "q", "completions": ["a", "b"], "ranking": [1, "2"]},
        "not_a_ranking",
        "no whole number",
    ),
    ("comparisons", {"prompt": "q", "completions": ["a", "b"], "ranking": "1>2"}, "not_a_ranking", "a list of 2 ranks"),
    ("comparisons", {"prompt": "q", "chosen": "a", "rejected": "b", "weight": float("nan")}, "wrong_type", "'weight'"),
    ("comparisons", {"prompt": "q", "chosen": "a", "rejected": "b", "simulated": "no"}, "wrong_type", "'simulated'"),
]


@pytest.mark.parametrize(("kind", "value", "reason", "message"), WRONG)
def test_a_wrong_row_says_where_and_what_would_be_right(kind, value, reason, message):
    with pytest.raises(RowError, match=message) as caught:
        parse(value, kind)
    assert caught.value.reason == reason
    assert str(caught.value).startswith("data.jsonl:7: ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_format_by_name_needs_its_keys():
    with pytest.raises(RowError, match="'output' is missing; keys found: instruction"):
        parse({"instruction": "a"}, "examples", "alpaca")
    assert parse({"chosen": HH + "a", "rejected": HH + "b"}, "comparisons", "hh_transcript").completions == ("a", "b")
    with pytest.raises(UserError, match="did you mean sharegpt"):
        find_format("shargpt", "examples")
    assert {f.kind for f in FORMATS} == {"texts", "examples", "comparisons", "labels", "prompts"}


def test_a_users_function_by_its_dotted_path(monkeypatch, tmp_path):
    source = (
        "from lit_llm.records import Document\n"
        "def good(row):\n    return Document(row['body']) if row['body'] else None\n"
        "def bad(row):\n    return 5\n"
        "VALUE = 3\n"
    )
    (tmp_path / "my_format_of_test.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert parse({"body": "x"}, "texts", "my_format_of_test.good") == Document("x", "data.jsonl:7")
    assert parse({"body": ""}, "texts", "my_format_of_test.good") is None
    with pytest.raises(RowError, match=r"data.jsonl:7: my_format_of_test.good failed \(KeyError"):
        parse({}, "texts", "my_format_of_test.good")
    with pytest.raises(RowError, match="gave a int; a Document or None"):
        parse({}, "texts", "my_format_of_test.bad")
    for path, message in (
        ("no_such_module_x.f", "No module"),
        ("my_format_of_test.f", "no attribute"),
        ("my_format_of_test.VALUE", "give a function"),
    ):
        with pytest.raises(UserError, match=message):
            find_format(path, "texts")
