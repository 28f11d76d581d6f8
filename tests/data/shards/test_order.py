"""The order of rows in shards: any stretch of it is what it is within the whole, and every row comes once a pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_llm.data.loading import ResumableLoader, mixed
from lit_llm.data.shards import order as orders
from lit_llm.data.shards.order import Interleaved, Shuffled, Windowed
from tests.data.test_loading import Numbers, NumbersWithBlanks, as_rank

SOURCES = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), min_size=1, max_size=5)


@given(SOURCES, st.integers(0, 3), st.integers(0, 200), st.integers(0, 60))
def test_a_stretch_is_what_mixed_has_there(sources, epoch, start, length):
    sizes, quotas = [size for size, _ in sources], [quota for _, quota in sources]
    whole = mixed(sizes, quotas, seed=4)(epoch)
    lazy = Interleaved(sizes, quotas, [Shuffled(size, 4, n) for n, size in enumerate(sizes)])(epoch)
    assert len(lazy) == len(whole)
    assert lazy[start : start + length].tolist() == whole[start : start + length].tolist()
    if start < len(whole):
        assert int(lazy[start]) == int(whole[start])


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30).filter(any), st.integers(1, 4), st.integers(1, 17))
def test_every_pass_has_all_rows_shards_by_windows(sizes, window, step):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "WINDOW", window)
        total = sum(sizes)
        shuffle = Windowed(sizes, seed=2, source=1)
        passes = [shuffle.stretch(n * total, (n + 1) * total).tolist() for n in range(3)]
        assert all(sorted(rows) == list(range(total)) for rows in passes)
        apart = Windowed(sizes, seed=2, source=1)  # in another order of asking, and in other steps
        found = {
            at: apart.stretch(at, min(at + step, 3 * total)).tolist() for at in reversed(range(0, 3 * total, step))
        }
        assert [row for at in sorted(found) for row in found[at]] == [row for rows in passes for row in rows]
        shard = np.repeat(np.arange(len(sizes)), sizes)
        assert max(_open_at_once(shard[passes[0]].tolist())) <= window


def _open_at_once(shards):
    """At each row, how many shards have been begun and are not yet done."""
    last = {shard: at for at, shard in enumerate(shards)}
    begun = set()
    for at, shard in enumerate(shards):
        begun.add(shard)
        yield len(begun)
        begun = {one for one in begun if last[one] > at}


def test_passes_and_seeds_have_other_orders():
    one, other = Windowed([50] * 9, seed=1, source=0), Windowed([50] * 9, seed=2, source=0)
    first, second = one.stretch(0, 450).tolist(), one.stretch(450, 900).tolist()
    assert first != second and first != other.stretch(0, 450).tolist()
    assert first[:20] != sorted(first[:20])


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_with_it_resume_exactly_on_any_number_of_processes(monkeypatch, workers):
    sizes = [7, 0, 12, 5, 9, 11, 3, 8, 6, 10, 4]
    total = sum(sizes)

    def loader(batch_size):
        rows = Interleaved([total], [total], [Windowed(sizes, 3, 0)])
        return ResumableLoader(NumbersWithBlanks(total), batch_size, order=rows, num_workers=workers)

    once = [row for batch in loader(4) for row in batch.tolist() if row >= 0]
    assert sorted(once) == list(range(total))
    first, taken = loader(4), []
    for _, batch in zip(range(5), first, strict=False):
        taken += batch.tolist()
    state = first.state_dict()
    shares = []
    for rank in (0, 1):
        as_rank(monkeypatch, rank, 2)
        part = loader(2)
        part.load_state_dict(state)
        shares.append([batch.tolist() for batch in part])
    rest = [row for pair in zip(*shares, strict=True) for share in pair for row in share if row >= 0]
    assert taken + rest == once


def test_a_step_makes_its_own_rows_only(monkeypatch):
    """Where an epoch has a billion rows, the first batch comes at once and holds nothing of the others."""
    monkeypatch.setattr(orders, "WINDOW", 2)
    sizes = [1000] * 1_000_000
    rows = Interleaved([10**9], [10**9], [Windowed(sizes, 3, 0)])
    loader = ResumableLoader(Numbers(10**9), 8, order=rows)
    loader.load_state_dict({"epoch": 3, "rows_seen": 777_777_776, "rows_per_epoch": 10**9, "fingerprint": ""})
    batch = next(iter(loader)).tolist()
    assert batch == rows(3)[777_777_776:777_777_784].tolist() and len({row // 1000 for row in batch}) <= 2
