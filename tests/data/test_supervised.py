"""Task pairs and instructions: answers alone are trained, each with its end, and nothing goes missing uncounted."""

import re

import pytest
import torch

from lit_llm.data.instructions import Instructions
from lit_llm.data.options import InstructionsOptions, TaskPairsOptions
from lit_llm.data.task_pairs import TaskPairs
from lit_llm.errors import UserError
from lit_llm.records import IGNORE, Message
from lit_llm.text.chat import ChatTemplate
from lit_llm.text.tokenizer import Tokenizer


def pair(source, target):
    return {"source": source, "target": target}


def pairs(sentence, count=40, start=0):
    return [pair(f"Say {sentence(n)}", sentence(n + 500, 4)) for n in range(start, start + count)]


@pytest.fixture
def task_pairs(tokenizer, write, cache):
    """task_pairs(train rows, **options): a DataModule of these rows, with two pairs for validation."""

    def make(rows, cls=TaskPairs, **options):
        path = {
            "train": write("train.jsonl", rows),
            "validation": write("validation.jsonl", [pair("Which?", "That one."), pair("Why?", "So it is.")]),
            "test": write("test.jsonl", [pair("What now?", "Nothing.")]),
        }
        options = {"max_length": 64, "micro_batch_size": 4, "cache_dir": cache, **options}
        return cls(tokenizer=options.pop("tokenizer", tokenizer), options=cls.Options(path=path, **options))

    return make


def segments(loader):
    """(input ids, labels) of every document of an epoch, padding left out."""
    for batch in loader:
        for ids, labels, positions, numbers in zip(*batch[:4], strict=True):
            for number in numbers.unique():
                here = numbers == number
                assert positions[here].tolist() == list(range(int(here.sum())))
                if (labels[here] != IGNORE).any():
                    yield ids[here].tolist(), labels[here].tolist()


def test_only_answers_are_trained_and_their_end_token_is(task_pairs, tokenizer, sentence):
    rows = pairs(sentence)
    data = task_pairs(rows)
    found = {}
    for ids, labels in segments(data.train_dataloader()):
        answer = [label for label in labels if label != IGNORE]
        assert answer[-1] == labels[-1] == tokenizer.turn_end_id
        begin = labels.index(answer[0])
        assert labels[begin:] == answer  # in one piece, to the end of the document
        assert ids[begin + 1 :] == answer[:-1]  # shifted by one
        prompt = tokenizer.decode(ids[: begin + 1])
        found[prompt] = tokenizer.decode(answer)
    assert len(found) == len(rows)
    for row in rows:
        assert any(row["source"] in prompt and answer == row["target"] for prompt, answer in found.items())


def test_the_whole_conversation_is_trained_on_request(task_pairs, tokenizer, sentence):
    rows = pairs(sentence, 10)
    for ids, labels in segments(task_pairs(rows, train_on_prompt=True).train_dataloader()):
        assert labels == [*ids[1:], tokenizer.turn_end_id]
    answers = task_pairs(rows).train_tokens
    assert task_pairs(rows, train_on_prompt=True).train_tokens > 2 * answers


def test_every_turn_of_the_assistant_is_trained_or_the_last_alone(task_pairs, tokenizer):
    messages = [("user", "One?"), ("assistant", "First."), ("user", "Two?"), ("assistant", "Second.")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in messages]}]
    for last_only, wanted in ((False, ["First.", "Second."]), (True, ["Second."])):
        data = task_pairs(rows, cls=Instructions, train_last_only=last_only)
        ((_, labels),) = segments(data.train_dataloader())
        ends = tokenizer.turn_end_id
        text, answers = [], []
        for label in labels:
            if label == ends:
                answers.append(tokenizer.decode(text))
                text = []
            elif label != IGNORE:
                text.append(label)
        assert answers == wanted and not text


def test_packed_rows_are_full_and_unpacked_ones_are_trimmed(task_pairs, sentence):
    rows = pairs(sentence)
    packed, apart = task_pairs(rows, max_length=128), task_pairs(rows, max_length=128, packing=False)
    assert len(packed.prepared.train) < len(apart.prepared.train) == len(rows)
    assert {batch.input_ids.shape[1] for batch in packed.train_dataloader()} == {128}
    assert max(batch.input_ids.shape[1] for batch in apart.train_dataloader()) < 128
    assert sorted(segments(packed.train_dataloader())) == sorted(segments(apart.train_dataloader()))


def test_what_is_too_long_is_dropped_and_counted(task_pairs, sentence):
    rows = [*pairs(sentence, 10), pair("Say " + sentence(7, 90), "Much.")]
    data = task_pairs(rows)
    assert len(list(segments(data.train_dataloader()))) == 10
    assert data.counts() == {"read": 14, "used": 13, "skipped": {"too_long": 1}, "truncated": 0}


def test_truncation_takes_from_the_prompt_s_left_and_never_from_the_last_answer(task_pairs, tokenizer, sentence):
    long = pair("Say " + sentence(7, 90), "Much.")
    hopeless = pair("Say it.", sentence(9, 90))
    data = task_pairs([*pairs(sentence, 10), long, hopeless], overlong="truncate")
    assert data.counts() == {"read": 15, "used": 14, "skipped": {"too_long": 1}, "truncated": 1}
    (cut,) = [(ids, labels) for ids, labels in segments(data.train_dataloader()) if len(ids) == 64]
    ids, labels = cut
    assert tokenizer.decode([label for label in labels if label != IGNORE]) == "Much."
    assert labels[-1] == tokenizer.turn_end_id
    whole, _ = tokenizer.encode_chat([Message("user", long["source"]), Message("assistant", long["target"])])
    end = len(whole) - whole[::-1].index(tokenizer.turn_end_id)
    assert ids == whole[end - 65 : end - 1]


def test_when_nothing_fits_it_says_why(task_pairs, sentence):
    rows = [pair("Say", sentence(7, 90 + 9 * n)) for n in range(21)]
    with pytest.raises(UserError, match=r"no conversation .*\(skipped: too_long 21\); data.max_length is 64: ") as no:
        task_pairs(rows).setup()
    few, every = map(int, re.search(r"data.max_length=(\d+) keeps 99%, (\d+) keeps all", str(no.value)).groups())
    assert few < every
    for length, dropped in ((every, 0), (every - 1, 1)):
        assert task_pairs(rows, max_length=length).counts()["skipped"].get("too_long", 0) == dropped


def test_a_conversation_without_a_trained_token_is_an_error_or_is_counted(task_pairs, tokenizer, sentence):
    """A template that leaves these answers out: the mask would be empty, and nothing be learnt."""
    silent = "{% for m in messages %}{{ m['role'] }}{{ m.content if m.content | length < 4 }}{% endfor %}"
    deaf = Tokenizer(tokenizer.engine, tokenizer.config, ChatTemplate(silent))
    with pytest.raises(UserError, match="chat template: "):
        task_pairs(pairs(sentence, 10), tokenizer=deaf).setup()
    with pytest.raises(UserError, match=r"chat template: "):  # of all rows alike: no row is to blame
        task_pairs(pairs(sentence, 10), tokenizer=deaf, on_error="skip").setup()


def test_a_template_that_fails_on_any_conversation_is_no_fault_of_a_row(task_pairs, tokenizer, sentence):
    broken = Tokenizer(tokenizer.engine, tokenizer.config, ChatTemplate("{{ messages[0].content }}", "folder/a.jinja"))
    for on_error in ("stop", "skip"):
        with pytest.raises(UserError, match=r"^chat template folder/a\.jinja: it drops or rewrites"):
            task_pairs(pairs(sentence, 10), tokenizer=broken, on_error=on_error).setup()


def test_control_tokens_in_a_user_s_text_stay_plain(task_pairs, tokenizer):
    rows = [pair("Ignore <|im_end|> this", "No <|im_end|> end <|endoftext|> here")]
    ((ids, labels),) = segments(task_pairs(rows, max_length=128).train_dataloader())
    answer = [label for label in labels if label != IGNORE]
    assert answer.count(tokenizer.turn_end_id) == 1 and tokenizer.document_end_id not in answer + ids
    assert tokenizer.decode(answer) == rows[0]["target"]


def test_what_it_tells_the_other_rooms(task_pairs, sentence):
    data = task_pairs(pairs(sentence))
    (heldout,) = data.heldout()
    assert (heldout.name, heldout.kind) == ("task_pairs", "responses")
    assert heldout.items[0].messages[-1].content == "Nothing."
    assert data.source_names == ("task_pairs",)
    every = [label for _, found in segments(data.train_dataloader()) for label in found if label != IGNORE]
    assert data.train_tokens == len(every)


def test_every_test_split_is_a_set_of_its_own(tokenizer, write, sentence, cache):
    for split in ("train", "validation", "test_wordings", "test_functions"):
        rows = [pair(f"{split} {n}?", sentence(n)) for n in range(5)]
        path = write(f"own/{split}.jsonl", rows)
    data = Instructions(InstructionsOptions(path=str(path).rsplit("/", 1)[0], cache_dir=cache), tokenizer=tokenizer)
    assert sorted(test.name for test in data.heldout()) == ["instructions_functions", "instructions_wordings"]


def test_pairs_that_share_a_source_are_held_out_together(tokenizer, write, sentence, cache):
    rows = [pair(f"Q{n // 3}: {sentence(n // 3)}", sentence(n)) for n in range(240)]
    data = TaskPairs(TaskPairsOptions(path=write("all.jsonl", rows), cache_dir=cache), tokenizer=tokenizer)
    held = {item.messages[0].content for test in data.heldout() for item in test.items}
    assert held
    trained = {tokenizer.decode(ids) for ids, _ in segments(data.train_dataloader())}
    assert not any(source in text for source in held for text in trained)


def test_the_order_of_the_rows_is_the_seed_s(task_pairs, sentence):
    rows = pairs(sentence)
    first, same, other = (
        torch.cat([b.input_ids for b in task_pairs(rows, seed=s).train_dataloader()]) for s in (0, 0, 1)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def turns(*pairs_):
    return [{"role": role, "content": text, **more} for role, text, more in pairs_]


def test_a_turn_of_weight_0_is_read_and_not_trained(task_pairs, tokenizer):
    """The answers' labels alone, as if the turn were the user's."""
    told = [
        ("user", "One?", {}),
        ("assistant", "Wrong.", {"weight": 0}),
        ("user", "Again?", {}),
        ("assistant", "Right.", {}),
    ]
    for options in ({}, {"train_last_only": True}):
        data = task_pairs([{"messages": turns(*told)}], cls=Instructions, **options)
        ((ids, labels),) = segments(data.train_dataloader())
        assert "Wrong." in tokenizer.decode(ids)
        assert tokenizer.decode([label for label in labels if label != IGNORE]) == "Right."
    both = [{"messages": turns(*told)}, {"messages": turns(*((*one[:2], {}) for one in told))}]
    assert len(list(segments(task_pairs(both, cls=Instructions).train_dataloader()))) == 2  # no duplicates
    masked = {"messages": turns(("user", "Two?", {}), ("assistant", "Wrong.", {"train": False}))}
    data = task_pairs([pair("a", "b"), masked])
    assert data.counts()["skipped"] == {"no_weight": 1}
    with pytest.raises(UserError, match=r"no conversation to train on \(skipped: no_weight 1\)"):
        task_pairs([masked]).setup()


def test_a_last_answer_of_weight_0_leaves_nothing_to_the_last_answer_alone(task_pairs):
    """And no answer before it takes its place."""
    told = [("user", "1?", {}), ("assistant", "Right.", {}), ("user", "2?", {}), ("assistant", "No.", {"loss": 0})]
    data = task_pairs([pair("a", "b"), {"messages": turns(*told)}], cls=Instructions, train_last_only=True)
    assert data.counts()["skipped"] == {"no_weight": 1} and data.training_answers() == ["b"]


def test_a_cut_leaves_no_answer_without_its_beginning(task_pairs, tokenizer, sentence):
    last = sentence(2, 10)
    told = turns(("user", "1?", {}), ("assistant", sentence(1, 40), {}), ("user", "2?", {}), ("assistant", last, {}))
    whole = len(tokenizer.encode_chat([Message(t["role"], t["content"]) for t in told])[0])
    options = {"cls": Instructions, "overlong": "truncate", "max_length": whole - 45}
    ((_, labels),) = segments(task_pairs([{"messages": told}], **options).train_dataloader())
    assert tokenizer.decode([label for label in labels if label != IGNORE]) == last


def test_training_on_every_token_refuses_a_turn_of_weight_0(task_pairs):
    told = [("user", "1?", {}), ("assistant", "No.", {"weight": 0}), ("user", "2?", {}), ("assistant", "Yes.", {})]
    with pytest.raises(UserError, match=r"train.jsonl:2: a turn has weight 0, and data.train_on_prompt=true"):
        task_pairs([pair("a", "b"), {"messages": turns(*told)}], cls=Instructions, train_on_prompt=True).setup()


def test_history_is_trained_and_left_out_with_the_last_answer_alone(task_pairs, tokenizer):
    row = {"instruction": "Who?", "output": "Arr.", "system": "Be a pirate.", "history": [["Hi", "Ahoy!"]]}
    for last_only, wanted in ((False, "Ahoy!Arr."), (True, "Arr.")):
        ((ids, labels),) = segments(task_pairs([row], train_last_only=last_only, max_length=128).train_dataloader())
        found = [label for label in labels if label not in (IGNORE, tokenizer.turn_end_id)]
        assert tokenizer.decode(found) == wanted and "Be a pirate." in tokenizer.decode(ids)


def test_dropped_shares_are_said_with_what_keeps_them(task_pairs, sentence, caplog):
    rows = [*pairs(sentence, 90), *(pair(f"Say {sentence(n, 90)}", "Much.") for n in range(12))]
    data = task_pairs([*rows, rows[0]])
    with caplog.at_level("WARNING"):
        counts = data.counts()
    assert counts["read"] == 106 and counts["skipped"] == {"duplicate": 1, "too_long": 12}
    assert data.dropped_shares() == {"too_long": 12 / 106}
    (line,) = [r.getMessage() for r in caplog.records if "too_long" in r.getMessage()]
    keeps = int(re.search(r"data.max_length=(\d+) keeps all", line)[1])
    assert line.startswith("data: 11.3% of the rows of task_pairs (12 of 106) are dropped: too_long: ")
    assert task_pairs(rows, max_length=keeps).counts()["skipped"] == {}
    assert task_pairs(rows, max_length=keeps - 1).counts()["skipped"]["too_long"] > 0
    caplog.clear()
    data = task_pairs(rows, overlong="truncate")
    with caplog.at_level("WARNING"):
        assert data.dropped_shares() == {"truncated": 12 / 105}
    assert "are cut: truncated: " in caplog.text


FORGETFUL = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if loop.last and m.reasoning_content %}"
    "{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def answers(data, tokenizer):
    """What is trained of each document of an epoch."""
    for _, labels in segments(data.train_dataloader()):
        yield tokenizer.decode([one for one in labels if one != IGNORE], skip_special=False)


def test_reasoning_of_earlier_turns_is_trained_in_sequences_of_its_own(task_pairs, tokenizer):
    turns = [
        {"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "Four.", "thinking": "Twos."},
        {"role": "user", "content": "And one?"}, {"role": "assistant", "content": "Five.", "thinking": "One on."},
    ]  # fmt: skip
    forgetful = Tokenizer(tokenizer.engine, tokenizer.config, ChatTemplate(FORGETFUL))
    data = task_pairs([{"messages": turns}], cls=Instructions, tokenizer=forgetful, packing=False, max_length=256)
    whole = ["<think>Twos.</think>Four.<|im_end|>", "<think>One on.</think>Five.<|im_end|>"]
    assert sorted(answers(data, tokenizer)) == sorted(whole)
    counts = data.prepared.counts
    assert counts["parts"] == 1 and counts["read"] == counts["used"] + sum(counts["skipped"].values())
    last = {"cls": Instructions, "tokenizer": forgetful, "packing": False, "train_last_only": True, "max_length": 256}
    assert list(answers(task_pairs([{"messages": turns}], **last), tokenizer)) == whole[1:]
    own = task_pairs([{"messages": turns}], cls=Instructions, packing=False, max_length=256)  # ChatML here keeps them
    assert "parts" not in own.prepared.counts


def test_rows_that_call_tools_train_the_calls_and_not_the_results(task_pairs, tokenizer):
    turns = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "أوسلو"}}}]},
        {"role": "tool", "content": "3"}, {"role": "assistant", "content": "Cold."},
    ]  # fmt: skip
    data = task_pairs([{"tools": [{"name": "weather"}], "messages": turns}], cls=Instructions, max_length=512)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "أوسلو"}}\n</tool_call><|im_end|>'
    assert list(answers(data, tokenizer)) == [f"{call}Cold.<|im_end|>"]
