"""A run that was stopped and goes on sees exactly what the uninterrupted run sees."""

import itertools
import multiprocessing

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.data.loading import ResumableLoader, grouped, mixed, sequential, shuffled
from lit_llm.errors import UserError
from tests.processes import free_port


class Numbers:
    """Rows that are their own index."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.tensor(index)

    def collate(self, items):
        return torch.stack(list(items))


class NumbersWithBlanks(Numbers):
    def blank(self):
        return torch.tensor(-1)


def loader(count=23, batch_size=4, workers=0, seed=5, **options):
    return ResumableLoader(
        Numbers(count), batch_size, order=shuffled(count, seed), num_workers=workers, fingerprint="data", **options
    )


def epochs(source, number):
    """Batches of so many epochs as lists."""
    return [[batch.tolist() for batch in source] for _ in range(number)]


def flat(lists):
    return [item for items in lists for item in items]


def test_every_epoch_is_another_order_of_all_rows():
    first, second = epochs(loader(), 2)
    assert first != second
    for epoch in (first, second):
        assert sorted(flat(epoch)) == list(range(23))
    assert epochs(loader(), 2) == [first, second]
    assert epochs(loader(seed=6), 1) != [first]


def test_rows_of_a_group_stand_together_in_groups_of_another_order_every_epoch():
    groups = [number % 7 for number in range(30)]
    order = grouped(groups, seed=3)
    seen = [[groups[row] for row in order(epoch)] for epoch in range(2)]
    for epoch, found in enumerate(seen):
        assert sorted(order(epoch)) == list(range(30))
        assert len(list(itertools.groupby(found))) == 7
    assert seen[0] != seen[1]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resumed_after_any_batch_it_gives_exactly_the_rest(workers):
    whole = flat(epochs(loader(10, 3), 3))
    for stop in range(9) if workers == 0 else (0, 2, 4, 7):
        running = loader(10, 3, workers)
        given = []
        while len(given) < stop:
            for batch in running:
                given.append(batch.tolist())
                if len(given) == stop:
                    state = running.state_dict()
                    break
        state = running.state_dict()
        resumed = loader(10, 3, workers)
        resumed.load_state_dict(state)
        rest = []
        while len(given) + len(rest) < 12:
            taken = [batch.tolist() for batch in resumed]
            assert taken, "an empty epoch"
            rest += taken
        assert given + rest == whole


@given(st.integers(1, 20), st.integers(1, 6), st.lists(st.integers(0, 7), max_size=6))
@settings(deadline=None, max_examples=50)
def test_many_resumes_in_a_chain_equal_one_run(count, batch_size, stops):
    wanted = [b for epoch in epochs(loader(count, batch_size), 45) for b in epoch]
    state, given = None, []
    for stop in stops:
        part = loader(count, batch_size)
        if state:
            part.load_state_dict(state)
        taken = 0
        while taken < stop:
            for batch in part:
                given.append(batch.tolist())
                taken += 1
                if taken == stop:
                    break
        state = part.state_dict()
    assert given == wanted[: len(given)]


def test_an_epoch_limited_to_some_batches_has_its_border_there():
    whole = epochs(loader(10, 3, max_batches=2), 3)
    assert [len(epoch) for epoch in whole] == [2, 2, 2]
    running = loader(10, 3, max_batches=2)
    assert [b.tolist() for b in running] == whole[0]
    resumed = loader(10, 3, max_batches=2)
    resumed.load_state_dict(running.state_dict())
    assert epochs(resumed, 2) == whole[1:]
    assert len(resumed) == 4  # Lightning takes its limit of this


def test_iterating_anew_without_taking_a_batch_loses_nothing():
    source = loader()
    iter(source)
    assert epochs(source, 1) == epochs(loader(), 1)


def test_the_loader_leaves_the_training_s_random_numbers_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epochs(loader(), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_changed_data_is_refused_unless_accepted():
    state = loader().state_dict()
    other = ResumableLoader(Numbers(23), 4, order=shuffled(23, 5), fingerprint="other")
    with pytest.raises(UserError, match="the training data changed since the checkpoint"):
        other.load_state_dict(state)
    with pytest.raises(UserError, match="23 rows an epoch"):
        loader(24).load_state_dict(state)
    accepting = ResumableLoader(Numbers(23), 4, fingerprint="other", accept_changed_data=True)
    accepting.load_state_dict({**state, "rows_seen": 8})
    assert next(iter(accepting)).tolist() == [8, 9, 10, 11]


# -- several processes ---------------------------------------------------------------------------------------------


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr("lit_llm.data.loading.data_rank", lambda: (rank, world_size))


def test_processes_share_the_steps_of_one_global_order(monkeypatch):
    alone = epochs(loader(22, 4), 1)[0]
    shares = []
    for rank in (0, 1):
        as_rank(monkeypatch, rank, 2)
        source = loader(22, 2)
        shares.append(epochs(source, 1)[0])
        assert len(source) == len(shares[-1]) == 6
    assert [a + b for a, b in zip(*shares, strict=True)] == alone


def test_from_one_process_to_two_and_back_each_row_comes_once(monkeypatch):
    as_rank(monkeypatch, 0, 1)
    first = loader(30, 2)
    batches = iter(first)
    seen = [n for _ in range(3) for n in next(batches).tolist()]
    state = first.state_dict()
    for rank in (0, 1):
        as_rank(monkeypatch, rank, 2)
        part = loader(30, 2)
        part.load_state_dict(state)
        batches = iter(part)
        seen += [n for _ in range(4) for n in next(batches).tolist()]
    after = part.state_dict()
    as_rank(monkeypatch, 0, 1)
    last = loader(30, 2)
    last.load_state_dict(after)
    seen += flat(epochs(last, 1)[0])
    assert sorted(seen) == list(range(30))


def test_every_process_has_the_same_number_of_batches_and_blank_rows_fill_them(monkeypatch):
    for rows, repeated in ((NumbersWithBlanks(9), []), (Numbers(9), [8])):
        seen = []
        for rank in (0, 1):
            as_rank(monkeypatch, rank, 2)
            batches = epochs(ResumableLoader(rows, 4), 1)[0]
            assert len(batches) == 2
            if rows.__class__ is NumbersWithBlanks:
                assert {len(batch) for batch in batches} == {4}
            seen += [n for batch in batches for n in batch if n >= 0]
        assert sorted(seen) == sorted([*range(9), *repeated])


# -- shares of sources -----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=4), st.integers(0, 3))
@settings(deadline=None)
def test_any_prefix_holds_the_share_of_each_source_to_within_a_row(sources, epoch):
    sizes, quotas = [s for s, _ in sources], [q for _, q in sources]
    borders = np.cumsum([0, *sizes])
    order = mixed(sizes, quotas, seed=1)(epoch)
    of = np.searchsorted(borders, order, side="right") - 1
    assert np.bincount(of, minlength=len(sizes)).tolist() == quotas
    for prefix in range(1, len(order) + 1):
        held = np.bincount(of[:prefix], minlength=len(sizes))
        assert (np.abs(held - prefix * np.array(quotas) / len(order)) <= len(sizes)).all()


def test_a_source_goes_on_where_the_epoch_before_stopped():
    order = mixed([4, 6], [4, 2], seed=3)
    replayed = [n for epoch in range(3) for n in order(epoch).tolist() if n >= 4]
    assert sorted(replayed) == [4, 5, 6, 7, 8, 9]
    for epoch in range(3):
        assert sorted(n for n in order(epoch).tolist() if n < 4) == [0, 1, 2, 3]
    assert order(0).tolist() != order(1).tolist()
    assert sequential(3)(7).tolist() == [0, 1, 2]


# -- inside Lightning --------------------------------------------------------------------------------------------------


class Recorder(L.LightningModule):
    """Notes the rows of each training step."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch.tolist())
        return self.weight.sum()

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAndSave(L.Callback):
    """Saves after so many steps, as a stop does."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def trainer(folder, callbacks=(), **options):
    return L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks), **options,
    )  # fmt: skip


@pytest.mark.parametrize("limit", [1.0, 3])
def test_lightning_resumes_at_any_step_with_the_next_rows(tmp_path, limit):
    def data():
        return loader(10, 2, max_batches=None if limit == 1.0 else limit)

    options = {"limit_train_batches": limit, "val_check_interval": 2 if limit == 1.0 else 1.0}
    whole = Recorder()
    trainer(tmp_path, **options).fit(whole, data(), ResumableLoader(Numbers(3), 2))
    steps = 15 if limit == 1.0 else 9
    assert len(whole.seen) == steps
    for stop in range(1, steps):
        first, second, path = Recorder(), Recorder(), tmp_path / f"{stop}.ckpt"
        trainer(tmp_path, [StopAndSave(stop, path)], **options).fit(first, data(), ResumableLoader(Numbers(3), 2))
        assert first.seen == whole.seen[:stop]
        trainer(tmp_path, **options).fit(
            second, data(), ResumableLoader(Numbers(3), 2), ckpt_path=path, weights_only=True
        )
        assert first.seen + second.seen == whole.seen, f"stopped after step {stop}"


@pytest.mark.slow
def test_lightning_leaves_the_loader_as_it_is_across_processes(tmp_path):
    """Lightning would give a DataLoader another sampler here."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    port = str(free_port())
    workers = [context.Process(target=_fit_as_rank, args=(r, port, str(tmp_path), queue)) for r in (0, 1)]
    for worker in workers:
        worker.start()
    shares = dict(queue.get(timeout=240) for _ in workers)
    for worker in workers:
        worker.join()
    alone = Recorder()
    trainer(tmp_path).fit(alone, loader(10, 2))
    assert [a + b for a, b in zip(shares[0], shares[1], strict=True)] == alone.seen


def _fit_as_rank(rank, port, folder, queue):
    import os

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    module = Recorder()
    trainer(folder, devices=2, strategy="ddp").fit(module, loader(10, 1))
    queue.put((rank, module.seen))
