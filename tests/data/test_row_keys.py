"""Which keys are let pass: none that changes what a row means, whatever ending or object it comes with."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from lit_llm.data.file_rows import Row
from lit_llm.data.filters import cleaned_row, content_key
from lit_llm.data.formats import parse_row
from lit_llm.data.label_formats import LabelsOfRankings
from lit_llm.data.row_errors import RowError
from lit_llm.data.row_keys import CHANGES, OF_KIND, known

ASKED, ANSWERED = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def parsed(**more: object):
    return parse_row(Row({"messages": [ASKED, ANSWERED], **more}, "f", 1), "examples")


@pytest.mark.parametrize("key", sorted(CHANGES))
def test_a_key_that_changes_a_row_is_known_nowhere_but_where_its_kind_lists_it(key):
    assert not known(key, None)
    assert [kind for kind in OF_KIND if known(key, kind)] == [kind for kind in OF_KIND if key in OF_KIND[kind]]


@pytest.mark.parametrize(
    "key",
    [
        "image_url",
        "image_path",
        "image_id",
        "audio_path",
        "video_url",
        "tool_file",
        "img_path",
        "screenshot_path",
        "pdf_url",
        "tgt_lang",
        "to_language",
        "system_file",
        "winner_id",
        "better_response_id",
    ],
)
def test_no_ending_lets_media_or_tools_pass(key):
    with pytest.raises(RowError, match=rf"f:1: key '{key}' would be dropped"):
        parsed(**{key: "x"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("function", [{"name": "search", "parameters": {}}]),
        ("function", {"name": "search"}),
        ("task", "Translate into French, formally. Keep names."),
        ("type", "tool_use"),
        ("wording", "Do not answer in English. Never."),
        ("category", "Translate this into French. Then stop."),
        ("length", "short"),
        ("turns", [{"role": "user", "content": "lost"}]),
        ("metadata", {"system": "be evil"}),
        ("attributes", {"tools": [1]}),
        ("target_language", "fr"),
        ("input_file", "a.txt"),
    ],
)
def test_what_decides_the_task_is_not_about_it(key, value):
    with pytest.raises(RowError, match=f"'{key}' would be dropped"):
        parsed(**{key: value})


def test_what_a_row_is_about_passes():
    more = {
        "id": 3,
        "task": "summarization",
        "function": "torchvision.io.decode_image",
        "source_language": "en",
        "metadata": {"a": 1},
        "tags": ["x"],
        "url": "u",
    }
    assert parsed(**more).messages[1].content == "a"


def test_the_same_turns_with_roles_the_other_way_round_are_not_said_again():
    turned = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "q"}]
    with pytest.raises(RowError, match="'conversations' would be dropped"):
        parsed(conversations=turned)


ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n{}"
)


def test_a_text_that_renders_the_turns_passes_and_one_that_says_more_does_not():
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "text": ALPACA.format("Add.", "1 and 2", "3")}
    assert parse_row(Row(row, "f", 1), "examples").messages[1].content == "3"
    for text in (row["text"] + "\n\nNow add the next two.", "You are a pirate.\n" + row["text"]):
        with pytest.raises(RowError, match="'text' would be dropped"):
            parse_row(Row(row | {"text": text}, "f", 1), "examples")


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
RANKED = {"prompt": "p", "completions": ["a", "b"], "ranking": [1, 2]}


@pytest.mark.parametrize(
    ("kind", "row", "more"),
    [
        ("comparisons", PAIR, {"weight": 0.5}),
        ("comparisons", PAIR, {"margin": 2}),
        ("labels", {"prompt": "p", "completion": "a", "label": True}, {"weight": 0.5}),
        ("prompts", {"question": "1+1", "answer": "2"}, {"answer": "11"}),
    ],
)
def test_rows_that_count_or_ask_otherwise_are_no_duplicates(kind, row, more):
    keys = [content_key(parse_row(Row(one, "f", 1), kind)) for one in (row, row | more)]
    assert keys[0] != keys[1]


def test_the_weight_of_a_turn_that_is_never_trained_makes_no_difference():
    weighed = [{**ASKED, "weight": 0}, ANSWERED]
    keys = [content_key(parse_row(Row({"messages": m}, "f", 1), "examples")) for m in ([ASKED, ANSWERED], weighed)]
    assert keys[0] == keys[1]


def test_the_source_of_a_task_pair_is_cleaned_like_its_target():
    assert cleaned_row({"source": "a\0b", "target": "c\0"}, Counter()) == {"source": "ab", "target": "c"}


@pytest.mark.parametrize(
    "scores",
    [
        {"score_chosen": 1, "score_rejected": 2},
        {"chosen-rating": 3.0, "rejected-rating": 4.0},
        {"chosen_rank": 2, "rejected_rank": 1},
        {"chosen_score": "1", "rejected_score": "2"},
    ],
)
def test_scores_that_say_the_rejected_one_is_better_are_refused(scores):
    with pytest.raises(RowError, match=r"f:1: .* the rejected answer is the better one"):
        parse_row(Row(PAIR | scores, "f", 1), "comparisons")
    turned = dict(zip(scores, reversed(list(scores.values())), strict=True))
    assert parse_row(Row(PAIR | turned, "f", 1), "comparisons").ranks == (1, 2)


def test_unranked_is_the_list_of_what_nobody_ranked():
    assert parse_row(Row(RANKED | {"unranked": [{"completion": "c"}]}, "f", 1), "comparisons").ranks == (1, 2)
    with pytest.raises(RowError, match="'unranked' would be dropped"):
        parse_row(Row(RANKED | {"unranked": True}, "f", 1), "comparisons")


def test_scores_of_both_sides_in_one_object_count_too():
    with pytest.raises(RowError, match="the rejected answer is the better one"):
        parse_row(Row(PAIR | {"score": {"chosen": 1, "rejected": 5}}, "f", 1), "comparisons")


def test_what_names_the_other_answer_the_better_one_is_not_said_again():
    with pytest.raises(RowError, match="'best' would be dropped"):
        parse_row(Row(PAIR | {"best": "b"}, "f", 1), "comparisons")
    whole = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(RowError, match="'messages' would be dropped"):
        parse_row(Row(PAIR | {"messages": whole}, "f", 1), "comparisons")
    whole[1]["content"] = "a"
    assert parse_row(Row(PAIR | {"messages": whole}, "f", 1), "comparisons").completions == ("a", "b")


@pytest.mark.parametrize("more", [{"all_bad": True}, {"margin": 3}, {"chosen": "z", "rejected": "a"}])
def test_a_label_beside_what_says_it_another_way_is_refused(more):
    row = Row({"prompt": "q", "completion": "a", "label": True} | more, "f", 1)
    (found,) = LabelsOfRankings()(row)
    assert isinstance(found, RowError) and "f:1" in str(found) and next(iter(more)) in str(found)


def test_a_long_text_of_a_template_s_words_is_refused_at_once():
    """No search through the ways to read them as marks, of which there would be 3 to the power of their number."""
    row = {"messages": [ASKED, ANSWERED], "text": "user : " * 5000 + "pirate q a"}
    began = time.process_time()
    with pytest.raises(RowError, match="'text' would be dropped"):
        parse_row(Row(row, "f", 1), "examples")
    assert time.process_time() - began < 20  # one of the ways in a million would take years
