"""Invariant: a coefficient is the published one, and the order of storage never changes it."""

import math
import random
from itertools import combinations

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lit_llm.feedback import coefficients as c
from lit_llm.feedback.coefficients import Ranking


def rankings(table):
    """{task: {annotator: "abc" ranks}} as rankings of the answers a, b, c..."""
    return [
        Ranking(task, name, dict(zip("abcdefgh", ranks, strict=False)))
        for task, members in table.items()
        for name, ranks in members.items()
    ]


def test_alpha_of_published_ratings():
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: nominal 0.743, ordinal 0.815.
    nan = math.nan
    table = np.array([
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ])  # fmt: skip
    units = [[[value for value in column if not math.isnan(value)]] for column in table.T]
    for level, published in (("nominal", 0.743), ("ordinal", 0.815)):
        assert c.alpha(units, level) == pytest.approx(published, abs=5e-4)
        counts, _ = c._counts(units)
        own = c.alpha_of(sum(c._coincidences(task) for task in counts), level)  # what the bootstrap resamples
        assert own == pytest.approx(c.alpha(units, level), abs=1e-12)


def test_alpha_of_two_annotators_by_hand():
    # Both orientations: each value half of the N = 4 x pairs values, so expected disagreement is N / (2 (N - 1)).
    said = {f"t{n}": {"x": [1, 2], "y": [1, 2] if n < 76 else [2, 1]} for n in range(100)}
    found = rankings(said)
    n = 400
    assert c.alpha(c.pair_units(found), "nominal") == pytest.approx(1 - 0.24 * 2 * (n - 1) / n)
    assert np.mean([x for x, _ in c.between(found, lambda a, b: c.same_order(a.ranks, b.ranks))]) == 0.76


def test_one_orientation_would_hide_the_agreement():
    """76% of the pairs alike, the better answer mostly stored first: counting pairs one way round gives less than 0."""
    said = {f"t{n}": {"x": [1, 2], "y": [1, 2]} if n < 76 else {"x": [1, 2], "y": [2, 1]} for n in range(88)}
    said |= {f"t{n}": {"x": [2, 1], "y": [1, 2]} for n in range(88, 100)}
    units = c.pair_units(rankings(said))
    one_way = krippendorff.alpha(
        reliability_data=np.array([task[0] for task in units]).T, level_of_measurement="nominal"
    )
    assert one_way < -0.08 and c.alpha(units, "nominal") == pytest.approx(1 - 0.48 * 399 / 400)


def test_kendalls_w_against_scipy_and_by_hand():
    table = np.array([[1.0, 2, 3], [2, 1, 3], [1, 3, 2]])  # sums 4, 6, 8: S = 8, W = 12 * 8 / (9 * 24)
    assert c.kendalls_w(table) == pytest.approx(12 * 8 / (9 * 24))
    generator = np.random.default_rng(0)
    for _ in range(20):  # Friedman's chi-squared is m (k - 1) W, ties corrected in the same way
        m, k = generator.integers(2, 6), generator.integers(3, 7)
        ranks = stats.rankdata(generator.integers(0, 4, size=(m, k)), axis=1)
        if any(len(set(row)) > 1 for row in ranks.tolist()):
            chi = stats.friedmanchisquare(*ranks.T).statistic
            assert c.kendalls_w(ranks) == pytest.approx(chi / (m * (k - 1)))
    assert math.isnan(c.kendalls_w(np.ones((2, 3)) * 2))


def test_tau_b_by_hand():
    one, two = rankings({"t": {"x": [1, 2, 3, 4], "y": [1, 2, 2, 3]}})
    # 5 concordant pairs, none discordant; one pair is tied in y alone: 5 / sqrt(6 * 5)
    assert c.tau_b(one, two) == pytest.approx(5 / math.sqrt(30))
    assert math.isnan(c.tau_b(one, Ranking("t", "z", dict.fromkeys("abcd", 1))))


def test_partial_rankings_are_compared_on_what_both_ranked():
    whole, part = Ranking("t", "x", {"a": 1, "b": 2, "c": 3}), Ranking("t", "y", {"b": 1, "c": 2})
    answers, table = c.shared([whole, part])
    assert answers == ["b", "c"] and table.tolist() == [[1, 2], [1, 2]]
    assert c.tau_b(whole, part) == pytest.approx(1.0) and c.same_order(whole.ranks, part.ranks) == [1.0]
    assert len(c.pair_units([whole, part])[0]) == 2


def test_a_tie_above_does_not_lift_an_answer():
    one, two = rankings({"t": {"x": [1, 1, 2], "y": [1, 2, 3]}})
    assert c.shared([one, two])[1].tolist() == [[1.5, 1.5, 3], [1, 2, 3]]


def test_same_order_counts_ties_as_told():
    assert c.same_order({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 1, "c": 0}) == [0.0, 0.0]
    assert c.same_order({"a": 1, "b": 2}, {"a": 1, "b": 1}) == []
    assert c.same_order({"a": 1, "b": 2}, {"a": 1, "b": 1}, ties_differ=True) == [0.0]


def test_the_first_shown_shares_the_credit_of_a_tie():
    places = {"a": 2, "b": 0, "c": 1}
    assert c.first_is_best(Ranking("t", "x", {"a": 2, "b": 1, "c": 3}, places)) == (1.0, 1 / 3)
    assert c.first_is_best(Ranking("t", "x", {"a": 1, "b": 1, "c": 2}, places)) == (0.5, 1 / 3)
    assert c.first_is_best(Ranking("t", "x", {"a": 1, "c": 2}, places)) == (0.0, 1 / 2)


SAID = st.dictionaries(
    st.sampled_from("pqrstu"),
    st.dictionaries(
        st.sampled_from("xyz"),
        st.dictionaries(st.sampled_from("abcd"), st.integers(1, 4), min_size=2, max_size=4),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(SAID, st.randoms(use_true_random=False))
def test_the_order_of_storage_changes_nothing(said, chance):
    """Of rankings and of the answers in each, and whatever the answers are called: alpha, W, tau-b, pair agreement."""
    found = [Ranking(task, name, ranks) for task, members in said.items() for name, ranks in members.items()]
    names = dict(zip("abcd", chance.sample("abcd", 4), strict=True))  # renaming changes the order of sorting
    other = [
        Ranking(r.task, r.annotator, {names[a]: rank for a, rank in shuffled(r.ranks.items(), chance)}) for r in found
    ]
    assert values(found) == pytest.approx(values(shuffled(other, chance)), nan_ok=True)


def shuffled(items, chance: random.Random):
    items = list(items)
    chance.shuffle(items)
    return items


def values(found):
    tables = [c.shared(members)[1] for members in c.by_task(found).values() if len(members) > 1]
    alike = [x for x, _ in c.between(found, lambda one, two: c.same_order(one.ranks, two.ranks))]
    taus = [c.tau_b(one, two) for one, two in combinations(found, 2) if one.task == two.task]
    return [
        c.alpha(c.pair_units(found), "nominal"),
        c.alpha(c.rank_units(found), "ordinal"),
        sum(w for w in (c.kendalls_w(table) for table in tables if table.shape[1] > 1) if not math.isnan(w)),
        sum(alike),
        math.fsum(tau for tau in taus if not math.isnan(tau)),
    ]


def test_the_bootstrap_s_error_is_that_of_many_projects():
    """Alpha of 40 tasks, drawn anew 100 times, spreads as the bootstrap over tasks of one of them says."""
    generator = np.random.default_rng(3)

    def project():
        tasks = {}
        for n in range(40):
            worth = generator.normal(size=4)
            tasks[f"t{n}"] = {
                name: (stats.rankdata(-(worth + generator.normal(0, 0.7, 4)))).astype(int).tolist() for name in "xy"
            }
        return c.pair_units(rankings(tasks))

    spread = np.std([c.alpha(project(), "nominal") for _ in range(100)], ddof=1)
    errors = [c.alpha_bootstrap(project(), "nominal", resamples=100, seed=n).std(ddof=1) for n in range(6)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.3)
