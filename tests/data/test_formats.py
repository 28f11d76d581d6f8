"""Every accepted shape gives its record; every wrong one is a line that says what would be right."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.data.conversations import TRAINED
from lit_llm.data.file_rows import Row
from lit_llm.data.formats import FORMATS, find_format, parse_row
from lit_llm.data.label_formats import LabelsOfRankings
from lit_llm.data.row_errors import RowError
from lit_llm.data.row_keys import ABOUT, CHANGES, known, without
from lit_llm.data.row_keys import _short as short
from lit_llm.data.tool_messages import OF_TURNS
from lit_llm.errors import UserError
from lit_llm.feedback.simulated import _tags
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


# A key that would change what is trained: (kind, row, the key's name in the message).
M, L = chat(("user", "a"), ("assistant", "b")), {"prompt": "q", "completion": "a", "label": True}
R = {"prompt": "q", "completions": ["a", "b"], "ranking": [1, 2]}


def turn(**more):
    return {"messages": [M[0], M[1] | more]}


DROPPED = [
    ("examples", turn(thoughts="Two."), "messages[1].thoughts"),
    ("examples", turn(tool_choice="auto"), "messages[1].tool_choice"),
    ("examples", {"messages": M, "tool_calls": [{"name": "f"}]}, "tool_calls"),
    ("examples", turn(images=["a.png"]), "messages[1].images"),
    ("examples", {"messages": M, "label": False}, "label"),
    (
        "examples",
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "label": 0},
        "label",
    ),
    ("examples", {"instruction": "a", "output": "b", "images": ["x"]}, "images"),
    ("examples", {"source": "a", "target": "b", "context": "c"}, "context"),
    ("texts", {"text": "a", "label": 1}, "label"),
    ("texts", {"text": "a", "system": "Be brief."}, "system"),
    ("comparisons", {"prompt": "q", "chosen": "a", "rejected": "b", "tool_calls": ["f"]}, "tool_calls"),
    ("comparisons", R | {"completions": [{"text": "a", "thinking": "x"}, "b"]}, "completions[0].thinking"),
    ("comparisons", R | {"videos": ["v"]}, "videos"),
    ("labels", L | {"image": "x.png"}, "image"),
    ("prompts", {"prompt": "q", "audio": "x.wav"}, "audio"),
    ("prompts", {"question": "q", "answer": "4", "input": "x"}, "input"),
]


@pytest.mark.parametrize(("kind", "value", "key"), DROPPED)
def test_a_key_that_would_be_dropped_is_refused_by_name_and_let_pass_on_request(kind, value, key):
    with pytest.raises(RowError, match=re.escape(f"data.jsonl:7: key '{key}' would be dropped")) as caught:
        parse(value, kind)
    name = key.rpartition(".")[2]
    assert f"data.ignore_keys=[{name}]" in str(caught.value) and "\n" not in str(caught.value)
    row = Row(value, "data.jsonl", 7)
    got = parse_row(row, kind, ignore_keys=[name])
    assert replace(got, tags={}) == replace(parse(without(value, [name]), kind), tags={})
    assert caught.value.reason in ("unknown_key", "labelled")


ROWS = {
    "texts": {"text": "a"},
    "examples": {"messages": M},
    "comparisons": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "labels": L,
    "prompts": {"prompt": "q"},
}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(ROWS)),
    st.text(min_size=1) | st.sampled_from(sorted(CHANGES | dict.fromkeys(ABOUT))),
    st.booleans() | st.integers(1) | st.text("xyz", min_size=9) | st.lists(st.just({"x": 1}), min_size=1),
    st.booleans(),
)
def test_any_key_is_used_or_listed_as_harmless_or_refused(kind, key, value, inside):
    row = dict(ROWS[kind])
    if inside:  # a message's key
        row = {"messages": M} | ({"label": True} if kind == "labels" else {})
        kind = kind if kind in ("examples", "labels", "prompts") else "examples"
        row["messages"] = [M[0], M[1] | {key: value}]
        read, named = {"role", "content", "from", "value", *TRAINED, *OF_TURNS}, f"'messages[1].{short(key)}'"
    else:
        read = {
            "from",
            "value",
            *(k for form in FORMATS if form.kind == kind for k in form.read(dict.fromkeys(row, ""))),
        }
        read |= {k for form in FORMATS for keys in form.keys for k in keys}
        row[key], named = value, f"'{short(key)}'"
    if key in (row if inside else ROWS[kind]):  # the row's own, which no format does without
        return
    if key in read or known(key, None if inside else kind):
        return
    with pytest.raises(RowError) as caught:
        parse(row, kind)
    assert caught.value.reason in ("unknown_key", "labelled")
    assert str(caught.value).startswith("data.jsonl:7: ") and named in str(caught.value)
    record = parse_row(Row(row, "data.jsonl", 7), kind, ignore_keys=[key])
    assert replace(record, tags={}) == replace(parse(row if inside and not row else without(row, [key]), kind), tags={})


def test_what_says_nothing_or_says_it_again_passes():
    messages = [M[0] | {"tool_calls": None, "images": []}, M[1] | {"reasoning_content": "", "weight": None, "id": "x1"}]
    value = {"messages": messages, "prompt": "a", "prompt_id": "9", "tools": [], "meta": {"label": 1}, "history": []}
    assert parse(value, "examples").messages == (U("a"), A("b"))
    alpaca = {"instruction": "a", "input": "", "output": "b", "text": "Below is an instruction.\n\na\n\nResponse: b"}
    assert parse(alpaca, "examples").messages == (U("a"), A("b"))
    sides = {"prompt": "q", "chosen": chat(("user", "q"), ("assistant", "a")), "rejected": "b", "score_chosen": 9.0}
    assert parse(sides | {"messages": sides["chosen"], "chosen-rating": 5}, "comparisons").completions == ("a", "b")


def test_the_row_s_system_message_and_history_are_trained_on():
    value = {
        "instruction": "Who?",
        "input": "",
        "output": "Arr.",
        "system": "Be a pirate.",
        "history": [["Hi", "Ahoy!"]],
    }
    whole = (S("Be a pirate."), U("Hi"), A("Ahoy!"), U("Who?"), A("Arr."))
    assert parse(value, "examples") == Example(whole, "data.jsonl:7")
    past = {"system": "Be a pirate.", "history": [["Hi", "Ahoy!"]]}
    for kind, row in (
        ("comparisons", {"prompt": "Who?", "chosen": "Arr.", "rejected": "I."}),
        ("comparisons", {"prompt": "Who?", "completions": ["Arr.", "I."], "ranking": [1, 2]}),
        ("labels", {"prompt": "Who?", "completion": "Arr.", "label": True}),
    ):
        assert parse(row | past, kind).prompt == whole[:4]
    for row in ({"prompt": "Who?"}, {"instruction": "Who?"}, {"question": "Who?", "answer": "Arr."}):
        assert parse(row | past, "prompts").messages == whole[:4]
    (one, _) = LabelsOfRankings()(Row({"prompt": "Who?", "chosen": "A", "rejected": "B"} | past, "data.jsonl", 7))
    assert parse(one.value, "labels").prompt == whole[:4]
    told = chat(("system", "s"), ("user", "a"), ("assistant", "b"))
    assert parse({"messages": told, "system": "s"}, "examples").messages == (S("s"), U("a"), A("b"))
    for bad, reason in (
        ({"system": "t"}, "two_systems"),
        ({"history": [["a"]]}, "wrong_type"),
        ({"history": "a"}, "wrong_type"),
    ):
        with pytest.raises(RowError) as caught:
            parse({"messages": told} | bad, "examples")
        assert caught.value.reason == reason


@pytest.mark.parametrize("key", ["weight", "train", "loss"])
@pytest.mark.parametrize(("value", "trained"), [(0, False), (0.0, False), (False, False), (1, True), (True, True)])
def test_a_turn_s_weight_says_whether_it_is_trained(key, value, trained):
    assert parse(turn(**{key: value}), "examples").messages == (U("a"), Message("assistant", "b", trained))
    assert parse({"source": "a", "target": "b", key: value}, "examples").messages[1].trained is trained
    assert parse({"prompt": [*M, M[0]], "chosen": "c", "rejected": "d"}, "comparisons").prompt[1].trained
    masked = parse({"prompt": [*turn(**{key: value})["messages"], M[0]], "completion": "c"}, "examples")
    assert [m.trained for m in masked.messages] == [True, trained, True, True]


@pytest.mark.parametrize(
    ("kind", "value", "reason", "message"),
    [
        ("examples", turn(weight=0.5), "wrong_type", "'messages[1].weight' is 0.5; 0 (not trained) or 1 (trained)"),
        ("examples", turn(train="yes"), "wrong_type", "'messages[1].train' is yes"),
        ("examples", turn(weight=0, train=True), "wrong_type", "says the opposite"),
        (
            "examples",
            {"messages": [M[0] | {"train": True}, M[1]]},
            "not_trainable",
            "'messages[0]' asks to train the user",
        ),
        (
            "comparisons",
            {"prompt": "q", "chosen": [M[1] | {"weight": 0}], "rejected": "d"},
            "not_trainable",
            "'chosen'",
        ),
        ("comparisons", {"prompt": "q", "chosen": [M[0]], "rejected": "d"}, "role_order", "the assistant's"),
        ("comparisons", R | {"completions": [[M[0]], "d"]}, "last_role", "is the user's turn"),
        (
            "examples",
            {"messages": [*M[:1], {"role": "tool", "content": "3"}, M[1]]},
            "role_order",
            "turn 2 is the tool's; the assistant's turn is due",
        ),
    ],
)
def test_a_weight_that_means_nothing_here_is_refused(kind, value, reason, message):
    with pytest.raises(RowError, match=re.escape(message)) as caught:
        parse(value, kind)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "text", "text": None}, "'messages[1].content[0].text' is null"),
        (
            {"type": "text", "value": "Hello."},
            "'messages[1].content[0]' has keys type, value; a part of a text has type",
        ),
        ({"type": "image", "image": "x.png"}, "'messages[1].content[0]' is a part of type 'image'"),
        ({"type": "text", "text": "a", "image": "x.png"}, "'messages[1].content[0].image' would be dropped"),
    ],
)
def test_a_content_s_part_that_is_no_text_is_named(part, message):
    with pytest.raises(RowError, match=re.escape(message)):
        parse({"messages": [M[0], {"role": "assistant", "content": [part]}]}, "examples")
    told = [{"type": "text", "text": "b", "image": None}, {"text": "c"}]
    assert parse({"messages": [M[0], {"role": "assistant", "content": told}]}, "examples").messages[1] == A("bc")


def test_labelled_conversations_are_labels():
    got = parse({"messages": chat(("user", "q"), ("assistant", "a")), "label": False}, "labels")
    assert (got.prompt, got.completion, got.label, got.tags) == ((U("q"),), "a", False, {})


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
    kept = "a\fb\u2028c\x0bd\x85e\u2029f\ufeff\u200f\x1b"
    assert parse({"text": kept}, "texts") == Document(kept, "data.jsonl:7")
    assert parse_row(Row("a", "b.txt", 1), "texts") == Document("a", "b.txt:1")


WRONG = [
    ("prompts", {"question": "q", "answer": "work\n####"}, "empty_turn", "nothing behind its ####"),
    ("prompts", {"question": "q", "answer": True}, "wrong_type", "'answer' is True"),
    ("examples", {"prompt": "a", "completions": "b"}, "unknown_format", "columns={completions: completion}' makes it"),
    ("texts", {"txt": "a"}, "unknown_format", "found: txt; accepted: text; 'data.columns={txt: text}' makes it text$"),
    ("texts", {"chosen": "a", "rejected": "b"}, "unknown_format", "this is for data=preferences"),
    ("comparisons", {"prompt": "q", "completion": "a", "label": True}, "unknown_format", r"\(stage=kto\)"),
    ("examples", {"prompt": "q", "chosen": "a", "rejected": "b"}, "unknown_format", "stage=reward_modeling, dpo"),
    ("labels", {"prompt": "q", "completion": "a"}, "unknown_format", "data=instructions .stage=fine_tuning, instruc"),
    ("examples", {}, "unknown_format", "keys found: none"),
    ("texts", {"text": None}, "wrong_type", "'text' is null; a string"),
    ("texts", {"text": 5}, "wrong_type", "'text' is a number"),
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


def test_the_tags_of_a_prompt_reach_the_rankings_of_its_answers():
    prompt = Prompt((U("q"),), "a:1", {"answer": "72", "function": "f", "level": "3"})
    row = {"prompt": "q", "completions": ["a", "b"], "ranking": [1, 2], **_tags(prompt)}
    assert parse(row, "comparisons").tags == prompt.tags and row["function"] == "f"
