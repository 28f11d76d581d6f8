"""pass@k against the share of all subsets of k answers that hold a right one."""

from itertools import combinations

import pytest

from lit_llm.evaluation.pass_at_k import doublings, pass_at_k


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_it_is_the_mean_over_every_choice_of_k_answers(right, k):
    answers = [True] * right + [False] * (5 - right)
    chosen = list(combinations(answers, k))
    expected = sum(any(some) for some in chosen) / len(chosen)
    assert pass_at_k([right], 5, k) == pytest.approx([expected], abs=1e-12)


def test_many_answers_do_not_overflow_and_more_than_there_are_cannot_be_asked():
    assert pass_at_k([0, 1, 10_000], 10_000, 100) == pytest.approx([0.0, 0.01, 1.0])
    assert doublings(8) == [1, 2, 4, 8] and doublings(6) == [1, 2, 4]
    with pytest.raises(ValueError, match="k=6"):
        pass_at_k([1], 5, 6)
