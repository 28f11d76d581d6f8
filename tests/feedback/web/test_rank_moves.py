"""Up and down: the arrows without script."""

from hypothesis import given
from hypothesis import strategies as st

from lit_llm.feedback.web.rank_moves import groups, moved

KEYS = list("ABCD")
ranks = st.fixed_dictionaries({key: st.none() | st.integers(1, 4) for key in KEYS})


def test_a_card_changes_places_leaves_a_tie_or_becomes_the_last():
    given_ranks = {"A": 1, "B": 2, "C": 2, "D": None}
    assert moved(given_ranks, KEYS, "A", up=False) == {"A": 2, "B": 1, "C": 1, "D": None}
    assert moved(given_ranks, KEYS, "C", up=True) == {"A": 1, "B": 3, "C": 2, "D": None}
    assert moved(given_ranks, KEYS, "C", up=False) == {"A": 1, "B": 2, "C": 3, "D": None}
    assert moved(given_ranks, KEYS, "D", up=True) == {"A": 1, "B": 2, "C": 2, "D": 3}
    assert moved(given_ranks, KEYS, "A", up=True) == given_ranks


@given(ranks, st.sampled_from(KEYS), st.booleans())
def test_the_others_keep_their_order_and_there_are_no_gaps(before, key, up):
    after = moved(before, KEYS, key, up)
    rest = [k for k in KEYS if k != key]
    assert groups(after, rest) == groups(before, rest)
    used = {rank for rank in after.values() if rank is not None}
    assert used == set(range(1, len(used) + 1)) and after[key] is not None
