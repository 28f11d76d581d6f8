"""What is searched, held to Hydra's own reading of the same words and to Optuna's own draws."""

import math

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lit_llm.errors import UserError
from lit_llm.training.search.space import dimension, split

optuna = pytest.importorskip("optuna")


def parsed(word):
    return OverridesParser.create().parse_override(word)


def drawn(word, count=60):
    """The overrides of ``count`` trials, as Hydra reads their values, and the values as Optuna drew them."""
    one = dimension(parsed(word))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    values = [study.ask({one.key: one.distribution}).params[one.key] for _ in range(count)]
    return [parsed(one.word(value)).value() for value in values], values


@pytest.mark.parametrize(
    "word",
    [
        "a=1,2,3", "a=choice(1e-5,3e-4,0.1)", "a=adamw,'a b',null,true", "a=choice([1,2],{b:3})",
        "optimizer=choice(adamw,muon)", "a=range(1,7)", "a=range(10,0,-3)", "a=range(0,1,step=0.25)", "a=range(3)",
        "a=range(1,0,-0.3)", "a=range(0,0.7,0.1)", "a=range(5,6)", "a=range(2,9,3)",
    ],
)  # fmt: skip
def test_a_discrete_search_draws_what_a_grid_would_run(word):
    grid = [parsed(f"a={text}").value() for text in parsed(word).sweep_string_iterator()]
    found, _ = drawn(word)
    assert all(any(same(value, one) and type(value) is type(one) for one in grid) for value in found)
    assert all(any(same(value, one) for value in found) for one in grid), "every value is drawn"


def same(one, other):
    return math.isclose(one, other, abs_tol=1e-15) if isinstance(one, float) else one == other


def test_an_interval_is_drawn_between_its_ends():
    found, values = drawn("a=interval(-1,2)")
    assert found == values and -1 <= min(found) < 0 < 1 < max(found) <= 2 and all(isinstance(v, float) for v in found)
    found, _ = drawn("a=int(interval(1,4))")
    assert set(found) == {1, 2, 3, 4} and all(isinstance(value, int) for value in found)


def test_a_range_of_any_length_is_not_listed():
    distribution = dimension(parsed("a=range(0,1000000000000,1000)")).distribution
    assert (distribution.low, distribution.high, distribution.step) == (0, 999_999_999_000, 1000)


def test_log_draws_by_the_logarithm():
    found, _ = drawn("a=tag(log, interval(1e-6,1e-2))", count=200)
    assert abs(sum(map(math.log10, found)) / len(found) + 4) < 0.3 and 1e-6 <= min(found) < max(found) <= 1e-2


def test_what_is_not_searched_is_passed_on_and_the_last_word_counts():
    words = ["a=1,2", "b='x y'", "~c", "a=interval(0,1)", "+d=[1,2]", "b=3"]
    searched, fixed = split(map(parsed, words))
    assert [*searched] == ["a"] and searched["a"].distribution.high == 1.0
    assert [*fixed.values()] == ["~c", "+d=[1,2]", "b=3"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("a=interval(2,1)", "from a lesser number to a greater one"),
        ("a=range(3,3)", "is empty; its end is left out"),
        ("a=tag(log, interval(0,1))", "log begins above 0"),
        ("a=tag(log, range(1,9,2))", "steps and log do not go together"),
        ("a=tag(log, choice(1,2))", "a choice has no order"),
        ("a=tag(lag, interval(1,2))", "the tag lag is unknown"),
        ("a=range(1,5,0)", "the step must not be 0"),
        ("a=range(0.5,5,0)", "the step must not be 0"),
        ("a=choice(true,2,1)", "True and 1 count as one value"),
    ],
)
def test_what_cannot_be_searched_is_one_line(word, said):
    with pytest.raises(UserError, match=said) as caught:
        dimension(parsed(word))
    assert str(caught.value).startswith(f"{word}: ") and "\n" not in str(caught.value)
