"""Preferences: the completions of a prompt stay together, whole, with their end token."""

import pytest
import torch

from lit_llm.data.options import PreferencesOptions
from lit_llm.data.preferences import Preferences
from lit_llm.errors import UserError
from lit_llm.records import RankingBatch


def ranking(sentence, number, size=4, **more):
    completions = [sentence(number * 10 + k, 3 + k) for k in range(size)]
    return {"prompt": f"Q{number}?", "completions": completions, "ranking": list(range(1, size + 1)), **more}


@pytest.fixture
def preferences(tokenizer, write, cache, sentence):
    """preferences(train rows, **options): a DataModule of these rows, with one comparison each to validate and test."""

    def make(rows, tests=(), **options):
        path = {
            "train": write("train.jsonl", rows),
            "validation": write("validation.jsonl", [ranking(sentence, 800)]),
            "test": write("test.jsonl", [ranking(sentence, 900), *tests]),
        }
        options = {"max_length": 64, "micro_batch_size": 3, "cache_dir": cache, **options}
        return Preferences(PreferencesOptions(path=path, **options), tokenizer=tokenizer)

    return make


def completions_of(batch, tokenizer):
    """(group, rank, prompt text, completion text) of every row; what follows its length must be padding."""
    for row, group, rank in zip(batch.completions.rows, batch.groups, batch.ranks, strict=True):
        assert row[1][-1] == tokenizer.turn_end_id
        yield int(group), int(rank), *(tokenizer.decode(part.tolist()) for part in row)


def test_all_completions_of_a_prompt_are_in_one_batch(preferences, tokenizer, sentence):
    rows = [ranking(sentence, n, size=2 + n % 3) for n in range(20)]
    data = preferences(rows)
    seen = {}
    for batch in data.train_dataloader():
        assert isinstance(batch, RankingBatch) and data.batch_type is RankingBatch
        assert batch.groups.tolist() == sorted(batch.groups.tolist())
        assert batch.groups.unique().tolist() == list(range(len(batch.weights)))
        assert len(batch.weights) <= 3
        assert (batch.completions.sizes > 0).all()
        groups = {}
        for group, rank, prompt, completion in completions_of(batch, tokenizer):
            groups.setdefault((group, prompt), []).append((completion, rank))
        for (_, prompt), found in groups.items():
            assert prompt not in seen
            seen[prompt] = found
    assert len(seen) == 20
    for row in rows:
        (found,) = [found for prompt, found in seen.items() if row["prompt"] in prompt]
        assert found == list(zip(row["completions"], row["ranking"], strict=True))


def test_the_prompt_is_the_same_prefix_for_all_completions(preferences, sentence):
    for batch in preferences([ranking(sentence, n) for n in range(6)]).train_dataloader():
        for group in batch.groups.unique():
            rows = [batch.completions.rows[row] for row in torch.nonzero(batch.groups == group)[:, 0]]
            assert len({tuple(prompt) for prompt, _ in rows}) == 1


def test_weights_and_ties_arrive(preferences, sentence):
    row = {**ranking(sentence, 1, 3), "ranking": [1, 2, 2], "weight": 0.25, "annotator": "ann"}
    (batch,) = preferences([row]).train_dataloader()
    assert batch.ranks.tolist() == [1, 2, 2] and batch.weights.tolist() == [0.25]


def test_the_weight_is_part_of_the_fingerprint(preferences, sentence):
    first = preferences([ranking(sentence, 1, weight=1.0)]).fingerprint()
    assert first != preferences([ranking(sentence, 1, weight=0.5)]).fingerprint()
    assert first == preferences([ranking(sentence, 1, weight=1.0)]).fingerprint()


def test_a_completion_that_does_not_fit_drops_its_whole_comparison(preferences, sentence):
    long = {"prompt": "Q?", "completions": ["Yes.", sentence(5, 90)], "ranking": [1, 2]}
    data = preferences([ranking(sentence, 1), long])
    assert len(data.prepared.train) == 1
    assert data.counts() == {"read": 4, "used": 3, "skipped": {"too_long": 1}, "truncated": 0, "people": 4}


def test_truncation_cuts_the_prompt_and_never_a_completion(preferences, tokenizer, sentence):
    long = {"prompt": sentence(3, 90), "completions": ["Yes.", "No, never."], "ranking": [1, 2]}
    hopeless = {"prompt": "Q?", "completions": ["Yes.", sentence(5, 90)], "ranking": [1, 2]}
    data = preferences([long, hopeless], overlong="truncate")
    (batch,) = data.train_dataloader()
    assert batch.completions.longest == 64
    found = list(completions_of(batch, tokenizer))
    assert [completion for *_, completion in found] == ["Yes.", "No, never."]
    assert found[0][2] == found[1][2] and found[0][2].endswith("assistant\n")
    assert data.counts() == {"read": 4, "used": 3, "skipped": {"too_long": 1}, "truncated": 1, "people": 4}


def test_a_prompt_that_fills_the_context_is_an_error_with_its_line_or_is_counted(preferences, sentence):
    rows = [ranking(sentence, 1), {**ranking(sentence, 2), "prompt": sentence(3, 90)}]
    with pytest.raises(UserError, match=r"train.jsonl:2: the prompt has \d+ tokens and the context 64;"):
        preferences(rows).setup()
    assert preferences(rows, on_error="skip").counts()["skipped"] == {"prompt_too_long": 1}


def test_held_out_comparisons_are_measured_like_those_that_are_trained(preferences, sentence):
    filled = {**ranking(sentence, 2), "prompt": sentence(3, 90)}
    long = {"prompt": "Q?", "completions": ["Yes.", sentence(5, 90)], "ranking": [1, 2]}
    with pytest.raises(UserError, match=r"test.jsonl:2: the prompt has \d+ tokens and the context 64;"):
        preferences([ranking(sentence, 1)], [filled]).setup()
    for overlong, reasons in (("drop", {"prompt_too_long": 1, "too_long": 1}), ("truncate", {"too_long": 2})):
        data = preferences([ranking(sentence, 1)], [filled, long], on_error="skip", overlong=overlong)
        assert data.counts() == {"read": 5, "used": 3, "skipped": reasons, "truncated": 0, "people": 3}
        assert len(data.heldout()[0].items) == 1


def test_margins_and_annotators_arrive(preferences, sentence):
    rows = [ranking(sentence, n, 2, annotator=who, margin=n / 2) for n, who in enumerate(("zoe", "ann", "zoe"))]
    data = preferences(rows)
    (batch,) = data.train_dataloader()
    assert data.annotators == ("", "ann", "zoe")  # those who validate and test are not named
    assert sorted(zip(batch.margins.tolist(), batch.annotators.tolist(), strict=True)) == [(0.0, 2), (0.5, 1), (1.0, 2)]
    assert data.training_comparisons_by == {"ann": 1, "zoe": 2}
    without = preferences([{key: value for key, value in row.items() if key != "margin"} for row in rows])
    assert without.fingerprint() != data.fingerprint()


def test_annotators_count_what_their_weight_says_and_nothing_at_0(preferences, sentence):
    rows = [ranking(sentence, n, 2, annotator="abc"[n % 3], weight=0.5) for n in range(6)]
    plain = preferences(rows, micro_batch_size=9)
    data = preferences(rows, micro_batch_size=9, annotator_weights={"a": 3, "b": 0})
    (batch,) = data.train_dataloader()
    found = sorted(zip(batch.annotators.tolist(), batch.weights.tolist(), strict=True))
    assert data.annotators == ("", "a", "c") and found == [(1, 1.5), (1, 1.5), (2, 0.5), (2, 0.5)]
    assert data.counts()["skipped"] == {"no_weight": 2} and data.fingerprint() != plain.fingerprint()
    assert [one.annotator for one in data.training_comparisons()] == ["a", "c", "a", "c"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"annotator_weights": {"an": 1.0}},
            "data.annotator_weights.an: nobody of this name ranked; did you mean ann?",
        ),
        ({"annotator_weights": {"x": 1.0}}, "data.annotator_weights.x: nobody of this name ranked; the data names ann"),
        ({"annotator_weights": {"ann": -1.0}}, "data.annotator_weights.ann=-1.0: must be at least 0"),
        ({"annotator_weights": {"ann": 0.0}}, r"no comparison to train on \(skipped: no_weight 1\)"),
        ({"attacks": 1.5}, "data.attacks=1.5: a share of the training prompts, from 0 to 1"),
        ({"half": "third"}, "data.half=third: must be one of first, second"),
    ],
)
def test_weights_and_halves_that_make_no_sense(preferences, sentence, options, message):
    with pytest.raises(UserError, match=message):
        preferences([ranking(sentence, 1, annotator="ann")], **options).setup()


def test_the_halves_share_no_prompt_and_are_all_there_is(preferences, sentence):
    rows = [ranking(sentence, n // 2, 2, annotator="ab"[n % 2]) for n in range(80)]
    first, second = (preferences(rows, half=half) for half in ("first", "second"))
    prompts = [{one.prompt for one in data.training_comparisons()} for data in (first, second)]
    assert not prompts[0] & prompts[1] and len(prompts[0] | prompts[1]) == 40
    assert min(len(some) for some in prompts) > 10  # 20 each, were the hash a coin that falls evenly
    assert first.counts()["skipped"] == {"other_half": 2 * len(prompts[1])}
    assert first.heldout() == second.heldout() and first.fingerprint() != second.fingerprint()


def test_rankings_of_a_prompt_come_together_where_that_is_asked_for(preferences, sentence):
    rows = [{**ranking(sentence, n), "annotator": who} for who in ("ann", "bob", "cy") for n in range(6)]
    data = preferences(rows, by_prompt=True)
    for batch in data.train_dataloader():
        assert len(batch.annotators.unique()) == 3  # of one prompt, as the batches of three have it
        assert len({tuple(prompt) for prompt, _ in batch.completions.rows}) == 1
    assert data.fingerprint() != preferences(rows).fingerprint()


def test_attacks_are_ranked_below_all_others_in_training_alone(preferences, sentence):
    rows = [ranking(sentence, n // 2, 3, annotator="ab"[n % 2]) for n in range(60)]
    plain, data = preferences(rows, max_length=96), preferences(rows, max_length=96, attacks=0.5, micro_batch_size=60)
    (batch,) = data.train_dataloader()
    sizes = batch.groups.bincount()
    assert set(sizes.tolist()) == {3, 4} and 10 < (sizes == 4).sum() < 50
    answers = torch.zeros(len(batch.groups), dtype=torch.bool).index_fill(0, batch.attacks.answers, True)
    for group in (sizes == 4).nonzero()[:, 0]:
        assert batch.ranks[batch.groups == group].tolist() == [1, 2, 3, 4]
        assert answers[batch.groups == group].tolist() == [True, True, True, False]
    assert (~answers).sum() == (sizes == 4).sum()
    (batch,) = preferences(rows, max_length=96, attacks=1.0, micro_batch_size=60).train_dataloader()
    assert batch.completions.sizes.min() == 2  # next to nothing and its end token
    assert batch.completions.longest > 80  # one repeated until all is full
    assert data.heldout() == plain.heldout() and data.training_comparisons() == plain.training_comparisons()
    assert data.fingerprint() != plain.fingerprint() and data.counts() == plain.counts()


def test_what_a_floor_learns_from_is_what_people_ranked_with_the_weights_of_training(preferences, sentence):
    rows = [ranking(sentence, n // 2, 3, annotator="ab"[n % 2], weight=3.0) for n in range(12)]
    data = preferences(rows, max_length=96, attacks=1.0, annotator_weights={"a": 0.5})
    found = data.training_comparisons()
    ranked = {(one["prompt"], *one["completions"]) for one in rows}
    assert {(one.prompt[-1].content, *one.completions) for one in found} == ranked, "no attack among them"
    assert {(one.annotator, one.weight) for one in found} == {("a", 1.5), ("b", 3.0)}


def test_simulated_rankings_are_counted_as_such(preferences, sentence):
    rows = [ranking(sentence, n, simulated=n < 2) for n in range(3)]
    assert preferences(rows).counts()["simulated"] == 2
    assert "simulated" not in preferences(rows[2:]).counts()
    assert preferences(rows).counts()["people"] == preferences(rows).counts()["read"] - 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completions": ["a", "a"], "ranking": [1, 2]}, "two completions are the same"),
        ({"completions": ["a", ""], "ranking": [1, 2]}, "empty"),
        ({"completions": ["a"], "ranking": [1]}, "a ranking needs 2 or more"),
        ({"completions": ["a", "b"], "ranking": [1, 3]}, "outside 1 to 2"),
        ({"completions": ["a", "b"], "ranking": [0, 1]}, "0 is outside 1 to 2"),
        ({"completions": ["a", "b"], "ranking": [2, 2]}, "nothing has rank 1"),
        ({"completions": ["a", "b"], "ranking": [1]}, "1 ranks for 2 completions"),
        ({"completions": ["a", "b"], "ranking": [1, 2], "margin": -1}, "'margin' is -1; a number of 0 or more"),
        ({"completions": ["a", "b"], "ranking": [1, 2], "margin": "far"}, "'margin' is far; a number"),
        ({"completions": ["a", "b"], "ranking": [1, 2], "weight": -1}, "'weight' is -1; a number of 0 or more"),
        ({"chosen": "a", "rejected": "a"}, "'chosen' and 'rejected' are the same"),
        ({"chosen": "a", "rejected": ""}, "empty"),
    ],
)
def test_what_is_no_comparison_is_named_with_file_and_line(preferences, sentence, change, message):
    with pytest.raises(UserError, match=rf"train.jsonl:2: .*{message}"):
        preferences([ranking(sentence, 1), {"prompt": "Q?", **change}]).setup()


def test_two_prompts_in_a_pair_are_named_with_file_and_line(preferences, sentence):
    sides = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}
    with pytest.raises(UserError, match=r"train.jsonl:2: 'chosen' and 'rejected' answer different prompts"):
        preferences([ranking(sentence, 1), sides]).setup()


def test_when_nothing_fits_it_says_why(preferences, sentence):
    with pytest.raises(UserError, match=r"no comparison to train on \(skipped: too_long 1\); .*\d+ keeps all"):
        preferences([{"prompt": "Q?", "completions": ["a", sentence(1, 90)], "ranking": [1, 2]}]).setup()


def test_what_it_tells_the_other_rooms(preferences, sentence):
    data = preferences([ranking(sentence, n) for n in range(5)])
    (heldout,) = data.heldout()
    assert (heldout.name, heldout.kind, len(heldout.items)) == ("rankings", "rankings", 1)
    assert data.source_names == ("rankings",) and len(list(data.val_dataloader()[0])) == 1
