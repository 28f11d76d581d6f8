"""Labelled answers: each completion once, with its label, and a completion of another prompt beside it."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_llm.data.file_rows import Row
from lit_llm.data.label_formats import LabelsOfRankings, labelled
from lit_llm.data.labelled_answers import LabelledAnswers, unrelated
from lit_llm.data.options import LabelledAnswersOptions
from lit_llm.data.row_errors import RowError
from lit_llm.errors import UserError
from lit_llm.records import LabelledBatch, Message


def judged(sentence, number, label, **more):
    return {"prompt": f"Q{number}?", "completion": sentence(number, 4), "label": label, **more}


@pytest.fixture
def answers(tokenizer, write, cache, sentence):
    """answers(train rows, **options): a DataModule of these rows, with two each to validate and test."""

    def make(rows, **options):
        path = {
            "train": write("train.jsonl", rows),
            "validation": write("validation.jsonl", [judged(sentence, n, n == 800) for n in (800, 801)]),
            "test": write("test.jsonl", [judged(sentence, n, n == 900) for n in (900, 901)]),
        }
        options = {"max_length": 64, "micro_batch_size": 4, "cache_dir": cache, **options}
        return LabelledAnswers(LabelledAnswersOptions(path=path, **options), tokenizer=tokenizer)

    return make


def test_every_completion_comes_once_with_its_label_and_a_completion_of_another_prompt(answers, tokenizer, sentence):
    rows = [judged(sentence, n, n % 3 == 0, weight=0.5 if n == 1 else 1.0) for n in range(10)]
    seen = {}
    for batch in answers(rows).train_dataloader():
        assert isinstance(batch, LabelledBatch)
        for n in range(len(batch.labels)):
            prompt, answer = batch.completions.rows[n]
            assert answer[-1] == tokenizer.turn_end_id
            own, asked = tokenizer.decode(answer.tolist()), tokenizer.decode(prompt.tolist())
            same, other = batch.unrelated.rows[n]
            assert same.tolist() == prompt.tolist()
            other = tokenizer.decode(other.tolist())
            assert other != own and other in [row["completion"] for row in rows]
            seen[own] = (bool(batch.labels[n]), float(batch.weights[n]), asked)
    assert len(seen) == 10
    for row in rows:
        label, weight, asked = seen[row["completion"]]
        assert (label, weight) == (row["label"], row.get("weight", 1.0)) and row["prompt"] in asked


def test_labels_of_weight_0_are_left_out_and_counted(answers, sentence):
    """Of the balance of good and bad as well, which KTO weighs its two losses by."""
    rows = [judged(sentence, n, n < 3, weight=0.0 if n in (0, 4) else 1.0) for n in range(5)]
    counts = answers(rows).counts()
    assert (counts["skipped"], counts["good"], counts["bad"]) == ({"no_weight": 2}, 2, 1)
    weighed = [judged(sentence, n, n < 2, weight=0.25 if n else 2.0) for n in range(3)]
    assert answers(weighed).training_weights() == (2.25, 0.25)
    with pytest.raises(UserError, match=r"of these no_weight 1"):
        answers([judged(sentence, 0, True), judged(sentence, 1, False, weight=0.0)]).setup()


def test_counts_held_out_sets_and_what_changes_the_fingerprint(answers, sentence):
    rows = [judged(sentence, n, n < 3) for n in range(5)]
    long = {"prompt": "Q?", "completion": sentence(5, 90), "label": True}
    data = answers([*rows, long])
    counts = {"read": 10, "used": 9, "skipped": {"too_long": 1}, "good": 3, "bad": 2}
    assert data.counts() == counts | {"people": 10}
    marked = answers([{**row, "simulated": number < 4} for number, row in enumerate([*rows, long])])
    assert marked.counts()["simulated"] + marked.counts()["people"] == 10  # of them those that are marked
    assert marked.counts()["simulated"] >= 4
    (heldout,) = data.heldout()
    assert (heldout.kind, heldout.name, [item.label for item in heldout.items]) == ("labels", "labels", [True, False])
    flipped = [{**row, "label": not row["label"]} for row in rows]
    assert len({answers(some).fingerprint() for some in (rows, flipped)}) == 2


@pytest.mark.parametrize(("stage", "packed"), [({"reads_unrelated": False}, False), ({}, True)])
def test_a_stage_that_does_not_read_completions_of_other_prompts_gets_none(answers, sentence, stage, packed):
    data = answers([judged(sentence, n, n % 2 == 0) for n in range(4)])
    (whole,) = data.train_dataloader()
    root = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
    data.trainer = SimpleNamespace(
        lightning_module=SimpleNamespace(**stage), strategy=root, overfit_batches=0, limit_train_batches=1.0
    )
    (batch,) = data.train_dataloader()
    assert (batch.unrelated is not None) == packed
    assert batch.completions.input_ids.equal(whole.completions.input_ids) and batch.labels.equal(whole.labels)


def test_with_one_prompt_nothing_is_unrelated(answers, sentence):
    rows = [{**judged(sentence, n, n == 0), "prompt": "Same?"} for n in range(2)]
    (batch,) = answers(rows).train_dataloader()
    assert batch.unrelated is None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 5))
def test_the_unrelated_record_has_another_prompt_wherever_there_is_one(prompts, seed):
    numbers = [10 * n for n in range(len(prompts))]
    for prompt, other in zip(prompts, unrelated(prompts, numbers, seed), strict=True):
        if len(set(prompts)) == 1:
            assert other is None
        else:
            assert prompts[other // 10] != prompt


NONE = dict.fromkeys("abcd", False)
HH = "\n\nHuman: q\n\nAssistant: "
RANKED = {"prompt": "q", "completions": ["a", "b", "c", "d"], "ranking": [2, 1, 3, 1], "annotator": "ann"}
FLAGS = [{"completion": 0, "kind": "privacy", "severity": 1}, {"completion": 2, "kind": "violent", "severity": 3}]


def labels_of(value, **rule):
    found = {}
    for row in LabelsOfRankings(**rule)(Row(value, "f.jsonl", 3)):
        if not isinstance(row, RowError):
            record = labelled(row.value, row.where)
            assert record.prompt == (Message("user", "q"),) and record.source == "f.jsonl:3"
            found[record.completion] = record.label
    return found


@pytest.mark.parametrize(
    ("value", "rule", "labels"),
    [
        (RANKED, {}, {"b": True, "d": True, "c": False}),
        ({**RANKED, "all_bad": True}, {}, NONE),
        ({**RANKED, "ranking": [1, 1, 1, 1]}, {}, {}),
        ({"prompt": "q", "completions": ["a"], "all_bad": True}, {}, {"a": False}),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, {}, {"a": True, "b": False}),
        ({"chosen": HH + "a", "rejected": HH + "b"}, {}, {"a": True, "b": False}),
        ({**RANKED, "flags": FLAGS}, {"label": "flagged"}, {"a": True, "b": False, "c": True, "d": False}),
        ({**RANKED, "flags": FLAGS}, {"label": "flagged", "min_severity": 2}, NONE | {"c": True}),
        ({**RANKED, "flags": FLAGS}, {"label": "flagged", "flag_kinds": ["privacy"]}, NONE | {"a": True}),
        (RANKED, {"label": "flagged"}, NONE),
        ({"prompt": "q", "completion": [{"role": "assistant", "content": "a"}], "label": True}, {}, {"a": True}),
    ],
)  # fmt: skip
def test_labels_of_rankings_pairs_and_flags(value, rule, labels):
    assert labels_of(value, **rule) == labels


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        ({"prompt": "q", "completion": "a", "label": "yes"}, {}, "'label' is 'yes'; true"),
        ({"prompt": "q", "completion": "", "label": True}, {}, "'completion' is empty"),
        ({"prompt": "q", "answer": "a", "label": True}, {}, "accepted: prompt \\+ completion \\+ label"),
        ({**RANKED, "ranking": [1, 2, 9, 1]}, {}, "9 is outside 1 to 4"),
        ({**RANKED, "all_bad": "no"}, {}, "'all_bad' is no; true or false"),
        ({**RANKED, "flags": [{"completion": 4, "kind": "privacy"}]}, {"label": "flagged"}, "a number below 4"),
        ({**RANKED, "flags": [FLAGS[0] | {"severity": 4}]}, {"label": "flagged"}, "severity is 4"),
        ({**RANKED, "completions": []}, {}, "'completions' is"),
    ],
)  # fmt: skip
def test_what_has_no_label_is_named_with_file_and_line(answers, sentence, value, options, message):
    with pytest.raises(UserError, match=rf"train.jsonl:2: .*{message}"):
        answers([judged(sentence, 1, True), value], **options).setup()


def test_labels_of_one_kind_are_refused(answers, sentence):
    with pytest.raises(UserError, match="only good completions to train on"):
        answers([judged(sentence, n, True) for n in range(3)]).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "best"}, "data.label=best"),
        ({"min_severity": 4}, "data.min_severity=4"),
        ({"flag_kinds": []}, "data.flag_kinds"),
    ],
)
def test_options_that_make_no_sense(answers, sentence, options, message):
    with pytest.raises(UserError, match=message):
        answers([judged(sentence, 1, True)], **options)


def test_good_and_bad_are_told_apart_by_their_places(answers, sentence):
    (batch,) = answers([judged(sentence, n, n in (1, 2)) for n in range(4)]).train_dataloader()
    assert batch.labels[batch.good].tolist() == [True, True] and batch.labels[batch.bad].tolist() == [False, False]
    assert sorted([*batch.good.tolist(), *batch.bad.tolist()]) == [0, 1, 2, 3]


def test_a_validation_split_of_one_prompt_borrows_other_completions(tokenizer, write, cache, sentence):
    """KTO measures its KL on completions of other prompts: training has them even where validation has none."""
    rows = [judged(sentence, n, n % 2 == 0) for n in range(6)]
    one = [{"prompt": "One?", "completion": sentence(90 + n, 4), "label": n == 0} for n in range(2)]
    path = {"train": write("train.jsonl", rows), "validation": write("validation.jsonl", one)}
    data = LabelledAnswers(LabelledAnswersOptions(path=path, max_length=64, cache_dir=cache), tokenizer=tokenizer)
    (batch,) = data.val_dataloader()[0]
    found = {tokenizer.decode(answer.tolist()) for _, answer in batch.unrelated.rows}
    assert found <= {row["completion"] for row in rows}
    assert (
        data.fingerprint()
        == LabelledAnswers(
            LabelledAnswersOptions(path=path, max_length=64, cache_dir=cache), tokenizer=tokenizer
        ).fingerprint()
    )
