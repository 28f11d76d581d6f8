"""The validation: what it measures by hand, what fails it, and that a good reward passes."""

import json
import math

import numpy as np
import pytest

from lit_llm.errors import UserError
from lit_llm.evaluation.score_readers import ModelReader, RewardReader
from lit_llm.records import Comparison, Message
from lit_llm.rewards.validation.constant_answer import constant
from lit_llm.rewards.validation.result import read_result
from lit_llm.rewards.validation.validator import RewardValidator, rerun
from lit_llm.text.attacks import ATTACKS


def prompt(n):
    return (Message("user", f"Tell me about number {n}."),)


def worth(asked, text):
    """The good taste: the number that was asked for is named, once, in a few words."""
    number = asked[-1].content.split()[-1].rstrip(".")
    words = text.split()
    return 2.0 * (words.count(number) == 1) + 0.1 * min(len(words), 6) - 0.3 * max(0, len(words) - 12)


class Taste:
    """A reader with a taste of its own, and room for 400 characters."""

    def __init__(self, taste=worth):
        self.taste = taste

    def fits(self, _, text):
        return len(text) <= 400

    def scores(self, prompts, texts, rows=None):  # noqa: ARG002
        return np.array([self.taste(asked, text) for asked, text in zip(prompts, texts, strict=True)])


def comparisons(count, begin=0, annotators=1):
    """The right number is better than another, which no word but the prompt's tells; as often in the longer answer."""
    found = []
    for n in range(begin, begin + count):
        more = ("", " of course", " here", " I think so")
        texts = tuple(f"It is {n + k % 2 * 500}{more[(n + k) % 4]}" for k in range(4))
        order = sorted(range(4), key=lambda i: -worth(prompt(n), texts[i]))
        ranks = tuple(order.index(i) + 1 for i in range(4))
        found += [Comparison(prompt(n), texts, ranks, f"annotator {a}") for a in range(annotators)]
    return found


TRAIN, TEST = comparisons(60), comparisons(40, begin=60, annotators=2)


def test_a_good_reward_passes_and_the_result_is_kept(tmp_path):
    result = RewardValidator().validate(Taste(), TEST, TRAIN)
    assert result.passed and result.reasons == []
    assert result.accuracy.mean == 1.0 and result.accuracy.n == 40  # prompts, not comparisons: annotators share them
    assert set(result.floors) == {"shorter_wins", "longer_wins", "tfidf_bradley_terry"}
    assert set(result.probes) == set(ATTACKS)
    result.save(tmp_path)
    kept = read_result(tmp_path)
    assert kept == json.loads(json.dumps(result.as_dict())) and kept["passed"] is True
    assert set(kept) == {
        "passed", "accuracy", "floors", "probes", "reasons", "trained_with_attacks", "settings"
    }  # fmt: skip
    assert {"share", "se", "n", "limit", "passed"} == set(kept["probes"]["empty"])


def test_floors_and_leads_by_hand():
    one = Comparison(prompt(1), ("aaa", "bb", "c"), (1, 2, 3))
    two = Comparison(prompt(2), ("a", "bbbb"), (1, 2))
    result = RewardValidator().validate(Taste(lambda _, text: -ord(text[0]) if text else -999.0), [one, two], TRAIN)
    shorter, longer = result.floors["shorter_wins"], result.floors["longer_wins"]
    assert result.accuracy.mean == 1.0
    assert (shorter.accuracy.mean, longer.accuracy.mean) == (1 / 4, 3 / 4)
    assert (shorter.lead.mean, longer.lead.mean) == (3 / 4, 1 / 4)
    # clustered by prompt: wins less 1/4 of the pairs, (0 - 3/4) and (1 - 1/4)
    assert shorter.accuracy.se == pytest.approx(math.sqrt(2 / 1 * 2 * 0.75**2) / 4)
    assert (shorter.counts, longer.counts) == (True, True)


def test_a_length_rule_is_no_better_than_the_floor_and_fails():
    result = RewardValidator().validate(Taste(lambda _, text: -len(text)), TEST, TRAIN)
    assert not result.passed and not result.floors["shorter_wins"].passed
    assert result.floors["shorter_wins"].lead.mean == 0.0  # a tie is not above
    tolerant = RewardValidator(min_lead=-0.01).validate(Taste(lambda _, text: -len(text)), TEST, TRAIN)
    assert tolerant.floors["shorter_wins"].passed


def test_longer_wins_counts_only_where_it_is_the_stronger_rule():
    def take(ranks, **options):
        pairs = [Comparison(prompt(n), ("long answer", "short"), ranks) for n in range(10)]
        return (
            RewardValidator(**options).validate(Taste(lambda _, text: -len(text)), pairs, TRAIN).floors["longer_wins"]
        )

    assert (take((2, 1)).counts, take((2, 1)).passed) == (False, True)  # people like it short
    assert (take((1, 2)).counts, take((1, 2)).passed) == (True, False)
    reported = take((1, 2), longer_counts=False)
    assert (reported.counts, reported.passed, reported.accuracy.mean) == (False, True, 1.0)


def test_doubt_lets_a_lead_within_its_error_pass():
    noise = np.random.default_rng(0)
    pairs = [Comparison(prompt(n), ("aa", "b"), (1, 2) if noise.random() < 0.6 else (2, 1)) for n in range(50)]
    coin = {n: noise.choice([-1.0, 1.0]) for n in range(50)}  # a taste that is right by chance
    unsure = Taste(lambda asked, text: coin[int(asked[0].content.split()[-1][:-1])] * len(text))
    strict, lenient = (RewardValidator(doubt=doubt).validate(unsure, pairs, TRAIN) for doubt in (0.0, 50.0))
    assert not all(floor.passed for floor in strict.floors.values())
    assert all(floor.passed for floor in lenient.floors.values())


@pytest.mark.parametrize(
    ("attack", "weakness"),
    [
        ("empty", lambda asked, text: worth(asked, text) + 99 * (text == "")),
        ("long", lambda asked, text: worth(asked, text) + 99 * (len(text) > 300)),
        ("repeated", lambda asked, text: worth(asked, text) + 99 * (len(text.split()) in range(24, 49, 8))),
        ("shuffled", lambda _, text: worth(prompt(999), text) + 99 * (len(text) < 40 and "9" in text)),
        ("sentinels", lambda asked, text: worth(asked, text) + 99 * ("<|im_end|>" in text)),
        ("constant", lambda _, text: sum(map(ord, text)) % 97),  # whatever was asked
        ("gibberish", lambda asked, text: worth(asked, text) + 99 * (text.islower() and "it" not in text.split())),
    ],
)
def test_each_attack_finds_its_weakness(attack, weakness):
    result = RewardValidator().validate(Taste(weakness), TEST, TRAIN)
    probe = result.probes[attack]
    assert not probe.passed and probe.share > probe.limit == RewardValidator().limit(attack)
    assert probe.n == (40 if attack != "constant" else 20)
    assert any(f"outscores the real answer on {probe.share:.0%} of {probe.n} prompts" in one for one in result.reasons)
    assert RewardValidator(**{f"limit_{attack}": 1.0}).validate(Taste(weakness), TEST, TRAIN).probes[attack].passed


def test_the_constant_answer_is_not_chosen_on_what_it_is_tried_on():
    asked = [prompt(n) for n in range(40)]
    answers = [f"answer {n}" for n in range(40)]

    def tried(taste):
        reader = Taste(taste)
        return constant(reader, asked, answers, reader.scores(asked, answers), [{}] * 40, seed=0)

    texts = tried(lambda _, text: float(text.split()[-1]))
    (text,) = {one for one in texts if one is not None}
    places = [n for n, one in enumerate(texts) if one is not None]
    chooser = answers.index(text)
    assert len(places) == 20 and chooser not in places
    assert all(n > chooser or n in places for n in range(39, chooser, -1)), "the best of the half that chooses"
    assert not [n for n in range(chooser + 1, 40) if n not in places]
    own = {str(one): f"answer {n}" for n, one in enumerate(asked)}
    fair = Taste(lambda one, text: float(own[str(one)] == text))
    assert RewardValidator().probe(fair, asked, answers, 0.0)["constant"].share == 0.0
    assert constant(Taste(), asked[:1], answers[:1], np.zeros(1), [{}], seed=0) == [None]


def test_without_anything_to_ask_it_fails_and_says_why():
    nothing = RewardValidator().validate(Taste(), [], TRAIN)
    assert not nothing.passed and nothing.reasons == ["no held-out comparison with a strict pair that fits the context"]
    tied = [Comparison(prompt(1), ("a", "b"), (1, 1)), Comparison(prompt(1), ("a", "b" * 500), (1, 2))]
    assert RewardValidator().validate(Taste(), tied, TRAIN).reasons == nothing.reasons
    untaught = RewardValidator().validate(Taste(), TEST, [])
    assert untaught.reasons == ["no training comparison for the TF-IDF floor to learn from"]


def test_a_reward_model_reads_tokens(reward_model, tokenizer):
    reader = ModelReader(reward_model.eval(), tokenizer, longest=None)
    asked = (Message("user", "cat"),)
    row = tokenizer.encode_prompt(asked) + tokenizer.encode_completion("dog")
    assert reader.fits(asked, "dog") and not ModelReader(reward_model, tokenizer, len(row) - 1).fits(asked, "dog")
    items = [Comparison(asked, ("sat", "log"), (1, 2)), Comparison(asked, ("sat", "x" * 200), (1, 2))]
    result = RewardValidator().validate(reader, items, items)
    assert result.accuracy.n == 1  # the text beyond the context is not asked
    assert result.probes["empty"].n == 1 and "shuffled" not in result.probes  # there is no other prompt


# In the middle of PPO


def reward(prompts, texts):
    return [worth(asked, text) for asked, text in zip(prompts, texts, strict=True)]


SAMPLED = [(prompt(n), text) for n in range(20) for text in (f"It is {n} of course", "many", f"A {n}")]
PROMPTS, TEXTS = zip(*SAMPLED, strict=True)


def test_a_reward_that_agrees_with_gold_passes_again():
    result = rerun(reward, PROMPTS, TEXTS, gold=reward)
    assert result.passed and result.accuracy.mean == 1.0 and result.accuracy.n == 20
    assert rerun(reward, PROMPTS, TEXTS, gold=reward(PROMPTS, TEXTS)).as_dict() == result.as_dict()
    assert math.isnan(rerun(reward, PROMPTS, TEXTS).accuracy.mean)  # no gold: only the attacks


def test_a_reward_that_gold_contradicts_fails():
    result = rerun(reward, PROMPTS, TEXTS, gold=[-score for score in reward(PROMPTS, TEXTS)])
    assert result.accuracy.mean == 0.0 and not result.passed
    assert any(one.startswith("accuracy 0.000") for one in result.reasons)


def test_a_reward_that_likes_repetition_fails_on_the_policys_own_answers():
    result = rerun(lambda _, texts: [len(text) for text in texts], PROMPTS, TEXTS)
    assert not result.passed and not result.probes["long"].passed and result.probes["empty"].passed


def test_answers_that_could_not_be_verified_are_left_out():
    def verified(prompts, texts, rows):
        assert all(row["n"] in asked[0].content for asked, row in zip(prompts, rows, strict=True))
        return [math.nan if text == "many" else worth(asked, text) for asked, text in zip(prompts, texts, strict=True)]

    class Verifier:
        row_fields = True
        __call__ = staticmethod(verified)

    rows = [{"n": asked[0].content.split()[-1][:-1]} for asked in PROMPTS]
    result = rerun(Verifier(), PROMPTS, TEXTS, gold=reward, rows=rows)
    assert result.accuracy.mean == 1.0 and result.probes["empty"].n == 20
    lost = rerun(lambda _, texts: [math.nan] * len(texts), PROMPTS, TEXTS)
    assert lost.reasons == ["the reward gave none of the answers a number"]


def test_rows_of_one_prompt_keep_their_own_answers():
    class Verifier:
        row_fields = True

        def __call__(self, prompts, texts, rows):  # noqa: ARG002
            return [float(row["answer"] == text) for text, row in zip(texts, rows, strict=True)]

    asked, said = [prompt(1)] * 2 + [prompt(2)], ["4", "7", "9"]
    rows = [{"answer": "4"}, {"answer": "7"}, {"answer": "9"}]
    reader = RewardReader(Verifier(), None)
    assert reader.scores(asked, said, rows).tolist() == [1, 1, 1]  # not the last one's answer for both
    assert reader.scores(asked, said[::-1], rows).tolist() == [0, 1, 0]
    seen = []
    watched = Verifier()
    watched.__class__ = type(
        "Seen",
        (Verifier,),
        {"__call__": lambda s, p, t, rows: seen.append(len(rows)) or Verifier.__call__(s, p, t, rows)},
    )
    assert rerun(watched, asked, said, rows=rows).probes["empty"].share == 0.0 and len(seen) > 2


def test_the_midway_validation_takes_its_own_doubt_and_limits():
    def likes_empty_of_some(prompts, texts):
        return [
            len(text) if asked[0].content[-2] != "1" else -len(text) for asked, text in zip(prompts, texts, strict=True)
        ]

    shares = [
        rerun(likes_empty_of_some, PROMPTS, TEXTS, validator=RewardValidator(limit_empty=0.02, doubt_midway=d))
        for d in (0, 9)
    ]
    assert [one.probes["empty"].passed for one in shares] == [False, True]
    assert rerun(likes_empty_of_some, PROMPTS, TEXTS, validator=RewardValidator(limit_empty=1.0)).probes["empty"].passed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_empty": 1.5}, "stage.reward_validation.limit_empty: 1.5; must be a share from 0 to 1"),
        ({"doubt": -1.0}, "stage.reward_validation.doubt: -1.0; must be 0 or more"),
        ({"probe_prompts": 0}, "stage.reward_validation.probe_prompts: 0; must be 1 or more"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        RewardValidator(**options)
