"""Tools, calls, results and reasoning from the shapes of public data sets, with what is wrong named by its place."""

import json
import re
from dataclasses import replace

import pytest

from lit_llm.data.file_rows import Row
from lit_llm.data.filters import content_key
from lit_llm.data.formats import parse_row
from lit_llm.data.row_errors import RowError
from lit_llm.evaluation.sets import read_heldout, write_heldout
from lit_llm.records import Heldout, Message, ToolCall

WEATHER = {"name": "weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": WEATHER}]
LISTED = Message("tools", json.dumps(TOOLS, ensure_ascii=False))
ASKED, TOLD = Message("user", "Weather in Oslo?"), Message("assistant", "It is 3 degrees.")
CALL = ToolCall("weather", '{"city": "أوسلو", "days": 2}')
ARGUMENTS = {"city": "أوسلو", "days": 2}
TURNS = (LISTED, ASKED, Message("assistant", "", calls=(CALL,)), Message("tool", '{"celsius": 3}'), TOLD)


def parse(value, kind="examples"):
    return parse_row(Row(value, "data.jsonl", 7), kind)


def plain(message):
    return {"role": message.role, "content": message.content}


def openai(**call):
    return [
        plain(ASKED),
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": '{"celsius": 3}'},
        plain(TOLD),
    ]


GPT = {"from": "gpt", "value": TOLD.content}
SHAREGPT = [
    {"from": "human", "value": ASKED.content},
    {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": ARGUMENTS})},
    {"from": "observation", "value": '{"celsius": 3}'},
    GPT,
]
SAME = {
    "openai": {"tools": TOOLS, "messages": openai(name="weather", arguments=ARGUMENTS)},
    "arguments and tools as texts": {
        "tools": json.dumps(TOOLS), "messages": openai(name="weather", arguments=json.dumps(ARGUMENTS)),
    },
    "functions of the first form": {
        "functions": [WEATHER],
        "messages": [
            plain(ASKED),
            {"role": "assistant", "function_call": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}},
            {"role": "function", "content": {"celsius": 3}},
            plain(TOLD),
        ],
    },
    "sharegpt": {"tools": json.dumps([WEATHER]), "conversations": SHAREGPT},
    "prompt and completion": {
        "tools": TOOLS, "prompt": [plain(ASKED)],
        "completion": openai(name="weather", arguments=ARGUMENTS)[1:],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_all_shapes_of_a_call_are_one_conversation(name):
    assert parse(SAME[name]).messages == TURNS
    assert content_key(parse(SAME[name])) == content_key(parse(SAME["openai"]))
    assert parse(SAME[name]).tags == {}


def test_no_part_of_a_call_can_change_and_the_row_be_the_same():
    one = parse(SAME["openai"])
    for other in (
        replace(CALL, name="x"), replace(CALL, arguments="{}"), replace(CALL, id="c1"),
    ):  # fmt: skip
        turns = (*TURNS[:2], replace(TURNS[2], calls=(other,)), *TURNS[3:])
        assert content_key(replace(one, messages=turns)) != content_key(one)
    assert content_key(replace(one, messages=(*TURNS[:-1], replace(TOLD, thoughts="x")))) != content_key(one)


def test_calls_of_their_own_turns_join_the_turn_before_them_and_results_keep_their_ids():
    call = {"from": "function_call", "value": '{"name": "weather", "arguments": {}}'}
    result = {"from": "observation", "value": "3"}
    row = {"conversations": [SHAREGPT[0], GPT | {"value": "I look."}, call, call, result, result, GPT]}
    found = parse(row).messages
    assert found[1] == Message("assistant", "I look.", calls=(ToolCall("weather"),) * 2)
    assert [m.role for m in found] == ["user", "assistant", "tool", "tool", "assistant"]
    ids = [{"id": n, "function": {"name": "weather", "arguments": {}}} for n in ("a", "b")]
    results = [{"role": "tool", "content": "3", "tool_call_id": n, "name": "weather"} for n in ("b", "a")]
    rows = {"messages": [plain(ASKED), {"role": "assistant", "tool_calls": ids}, *results, plain(TOLD)]}
    assert [m.call_id for m in parse(rows).messages[2:4]] == ["b", "a"]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_stands_apart_where_it_came_so(key):
    rows = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", key: "Two and two."}]
    assert parse({"messages": rows}).messages[1] == Message("assistant", "4", thoughts="Two and two.")
    inside = "<think>\nTwo and two.\n</think>\n\n4"
    rows[1] = {"role": "assistant", "content": inside}
    assert parse({"messages": rows}).messages[1] == Message("assistant", inside)
    call = [{"name": "add", "arguments": {}}]
    rows[1] |= {"tool_calls": call}
    assert parse({"messages": rows}).messages[1] == Message(
        "assistant", "4", thoughts="Two and two.", calls=(ToolCall("add"),)
    )


def test_tags_around_reasoning_are_no_part_of_it():
    rows = [plain(ASKED), {"role": "assistant", "content": "4", "reasoning_content": "<think>\nTwo.\n</think>\n"}]
    assert parse({"messages": rows}).messages[1] == Message("assistant", "4", thoughts="Two.")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": "Two.", "signature": "Eq"}, {"type": "reasoning", "text": "Two."},
        {"type": "thinking", "thinking": [{"type": "text", "text": "Tw"}, {"type": "text", "text": "o."}]},
    ],
)  # fmt: skip
def test_reasoning_that_is_a_part_of_the_content_stands_apart(part):
    turn = {"role": "assistant", "content": [part, {"type": "text", "text": "4"}]}
    assert parse({"messages": [plain(ASKED), turn]}).messages[1] == Message("assistant", "4", thoughts="Two.")
    calls = {"role": "assistant", "content": [part], "tool_calls": [{"name": "add", "arguments": {}}]}
    rows = [plain(ASKED), calls, {"role": "tool", "content": "4"}, plain(TOLD)]
    expected = Message("assistant", "", thoughts="Two.", calls=(ToolCall("add"),))
    assert parse({"messages": rows}).messages[1] == expected


def test_a_result_that_only_looks_like_parts_is_written_as_json():
    rows = openai(name="weather", arguments=ARGUMENTS)
    hotels = [{"type": "hotel", "name": "Ritz"}]
    for content, text in ((hotels, json.dumps(hotels)), ([{"type": "text", "text": "3"}], "3")):
        rows[2] = {"role": "tool", "content": content}
        assert parse({"messages": rows}).messages[2] == Message("tool", text)


def test_tools_of_the_responses_api_are_wrapped_like_bare_ones():
    rows = SAME["openai"]["messages"]
    assert parse({"tools": [{"type": "function", **WEATHER}], "messages": rows}).messages == TURNS


def test_a_call_without_a_weight_has_that_of_the_turn_it_joins():
    call = {"from": "function_call", "value": '{"name": "weather", "arguments": {}}'}
    turns = [SHAREGPT[0], GPT | {"weight": 0}, call, {"from": "observation", "value": "3"}, GPT]
    found = parse({"conversations": turns}).messages
    assert found[1] == Message("assistant", TOLD.content, trained=False, calls=(ToolCall("weather"),))
    turns[2] = call | {"weight": 1}
    with pytest.raises(RowError, match="turn 3"):
        parse({"conversations": turns})


def test_tools_go_with_prompts_and_judged_answers():
    before = openai(name="weather", arguments=ARGUMENTS)[:3]
    prompt = TURNS[:4]
    assert parse({"tools": TOOLS, "prompt": before}, "prompts").messages == prompt
    assert (
        parse({"tools": TOOLS, "messages": openai(name="weather", arguments=ARGUMENTS)}, "prompts").messages == prompt
    )
    pair = {"tools": TOOLS, "prompt": before, "chosen": "3.", "rejected": "4."}
    assert parse(pair, "comparisons").prompt == prompt
    assert parse({"tools": TOOLS, "prompt": before, "completion": "3.", "label": True}, "labels").prompt == prompt


def test_a_heldout_set_keeps_calls_and_reasoning(tmp_path):
    one = parse(SAME["openai"])
    one = replace(one, messages=(*one.messages[:-1], replace(TOLD, thoughts="Cold.", trained=False)))
    file = write_heldout(tmp_path, Heldout("calls", "responses", (one,)))
    assert read_heldout(file).items == (one,)
    plain_one = parse({"messages": [plain(ASKED), plain(TOLD)]})
    written = write_heldout(tmp_path, Heldout("plain", "responses", (plain_one,))).read_text()
    assert json.loads(written)["messages"] == [plain(ASKED), plain(TOLD)]


def called(**more):
    return {"messages": [plain(ASKED), {"role": "assistant", "content": "", **more}]}


HM = {"type": "thinking", "thinking": "Hm."}
WRONG = [
    (called(content=[HM]), "'messages[1].content' is empty"),
    (called(content=[{"type": "text", "text": "4"}, HM]), "'messages[1].content[1]' is reasoning behind the text"),
    (called(content=[HM, {"type": "text", "text": "4"}], reasoning="So."), "reasoning in its content and beside it"),
    (called(content=[HM | {"score": 3}]), "key 'messages[1].content[0].score' would be dropped"),
    (called(content=[{"type": "tool_use", "name": "f"}]), "a call stands in the message's tool_calls"),
    (called(tool_calls=[{"type": "function"}]), "'messages[1].tool_calls[0]' has the name 'None'"),
    (called(tool_calls=[{"function": {"name": "f", "arguments": "city: Oslo"}}]), "'city: Oslo', which is no JSON"),
    (called(tool_calls=[{"function": {"name": "f", "arguments": [1]}}]), "tool_calls[0].arguments' is a list ([1])"),
    (called(tool_calls=[{"name": "f", "speed": 3}]), "key 'messages[1].tool_calls[0].speed' would be dropped"),
    (called(tool_calls={"name": "f"}), "a list of calls is needed"),
    (called(thinking="Hm."), "'messages[1].content' is empty"),
    (called(thinking="Hm.", reasoning="Well."), "different texts in reasoning and thinking"),
    (called(content="4", thinking="So <think> it is."), "'messages[1].thinking' has <think> or </think> inside"),
    ({"messages": [plain(ASKED), plain(TOLD)], "tools": [{"type": "web_search", "name": "w"}]},
     "'tools[0]' is of type 'web_search'"),
    ({"messages": [*openai(name="f")[:2], {"role": "tool", "content": [{"type": "image_url"}]}, plain(TOLD)]},
     "a part of type 'image_url'"),
    (called(tool_call_id="c1"), "'messages[1]' has a tool_call_id, and is the assistant's"),
    ({"messages": [plain(ASKED) | {"reasoning": "x"}, plain(TOLD)]}, "'messages[0]' reasons, and is the user's"),
    ({"messages": [plain(ASKED), plain(TOLD)], "tools": "weather"}, "'tools' is 'weather', which is no JSON"),
    ({"messages": [plain(ASKED), plain(TOLD)], "tools": [{"type": "function"}]}, "'tools[0]' is an object"),
    ({"messages": [*openai(name="f")[:2], plain(ASKED), plain(TOLD)]}, "turn 3 is the user's; the tool's turn is due"),
    ({"messages": [*openai(name="f")[:3], *openai(name="f")[2:]]}, "turn 4 is the result of no call"),
    ({"messages": [plain(ASKED), plain(TOLD) | {"content": [{"type": "image_url", "image_url": "x"}]}]},
     "'messages[1].content[0]' is a part of type 'image_url'; text alone is trained"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "what"), WRONG)
def test_what_is_wrong_is_named_by_its_place(row, what):
    with pytest.raises(RowError, match=re.escape(what)) as caught:
        parse(row)
    assert str(caught.value).startswith("data.jsonl:7: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [{"tool_calls": [{"name": "f", "arguments": {}}]}, {"thinking": "Hm."}])
def test_a_judged_answer_is_a_text(more):
    row = {"prompt": "q", "chosen": [{"role": "assistant", "content": "a", **more}], "rejected": "b"}
    with pytest.raises(RowError, match=r"'chosen' (calls tools|has reasoning)"):
        parse(row, "comparisons")
