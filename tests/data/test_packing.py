"""The laws of packing: nothing lost, nothing twice, nothing across a border."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.data.packing import (
    PackedRows,
    best_fit_decreasing,
    concatenate_and_split,
    one_per_row,
    trained_labels,
)
from lit_llm.records import IGNORE


class Documents:
    """Documents whose tokens are all different, so that each can be recognised wherever it turns up."""

    def __init__(self, lengths, trained=None):
        ends = np.cumsum([0, *lengths])
        self.ids = [np.arange(ends[i], ends[i + 1]) for i in range(len(lengths))]
        self.mask = trained or [[True] * n for n in lengths]

    def tokens(self, document, start, stop):
        return self.ids[document][start:stop]

    def trained(self, document, start, stop):
        return np.array(self.mask[document][start:stop], dtype=bool)


PAD = 10**6
token_counts = st.lists(st.integers(1, 40), max_size=30)
capacities = st.integers(1, 50)


def positions_of(lengths):
    return np.array([n - 1 for n in lengths], dtype=np.int64)


def segments_of(row):
    """(input ids, labels, positions) of each document's piece in a row, padding left out."""
    number = row.segments.numpy()
    used = row.input_ids.numpy() != PAD
    for segment in np.unique(number[used]):
        here = used & (number == segment)
        yield row.input_ids.numpy()[here], row.labels.numpy()[here], row.positions.numpy()[here]


@given(token_counts, capacities)
@settings(deadline=None)
def test_every_token_of_raw_text_appears_exactly_once_and_rows_are_full(lengths, capacity):
    documents = Documents(lengths)
    plan = concatenate_and_split(positions_of(lengths), capacity)
    rows = PackedRows(documents, plan, pad_id=PAD)
    inputs, labels = [], []
    for index in range(len(rows)):
        for ids, targets, positions in segments_of(rows[index]):
            inputs += ids.tolist()
            labels += targets.tolist()
            assert positions.tolist() == list(range(len(ids)))
        if index < len(rows) - 1:
            assert (rows[index].input_ids != PAD).all()
    assert inputs == [t for ids in documents.ids for t in ids[:-1].tolist()]
    assert labels == [t for ids in documents.ids for t in ids[1:].tolist()]


@given(token_counts, st.integers(40, 60), st.data())
@settings(deadline=None)
def test_examples_stay_whole_and_keep_their_mask(lengths, capacity, data):
    masks = [data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) for n in lengths]
    documents = Documents(lengths, masks)
    rows = PackedRows(documents, best_fit_decreasing(positions_of(lengths), capacity), pad_id=PAD)
    seen = {}
    for index in range(len(rows)):
        for ids, labels, positions in segments_of(rows[index]):
            seen[ids[0]] = (ids, labels)
            assert positions.tolist() == list(range(len(ids)))
    whole = [i for i, n in enumerate(lengths) if n > 1]
    assert len(seen) == len(whole)
    for i in whole:
        ids, labels = seen[documents.ids[i][0]]
        assert ids.tolist() == documents.ids[i][:-1].tolist()
        wanted = [t if on else IGNORE for t, on in zip(documents.ids[i][1:], masks[i][1:], strict=True)]
        assert labels.tolist() == wanted


@given(token_counts, capacities)
@settings(deadline=None)
def test_labels_are_shifted_once_and_never_cross_a_segment(lengths, capacity):
    documents = Documents(lengths)
    owner = {t: i for i, ids in enumerate(documents.ids) for t in ids.tolist()}
    rows = PackedRows(documents, concatenate_and_split(positions_of(lengths), capacity), pad_id=PAD)
    for index in range(len(rows)):
        row = rows[index]
        assert (row.labels[row.input_ids == PAD] == IGNORE).all()
        for ids, labels, _ in segments_of(row):
            assert (labels == ids + 1).all()  # tokens are numbered through: the next one is the next number
            assert {owner[t] for t in ids.tolist()} == {owner[t] for t in labels.tolist()}


@given(st.lists(st.integers(0, 64), max_size=200))
@settings(deadline=None)
def test_no_two_rows_of_a_best_fit_could_have_been_one(positions):
    plan = best_fit_decreasing(positions, 64)
    used = sorted(int(plan.length[a:b].sum()) for a, b in itertools.pairwise(plan.row_bounds))
    assert all(1 <= n <= 64 for n in used)
    assert sum(used[:2]) > 64 or len(used) < 2
    assert sorted(plan.document.tolist()) == [i for i, n in enumerate(positions) if n]


def test_best_fit_wastes_little_on_real_lengths():
    lengths = np.random.default_rng(0).lognormal(4, 0.8, 5000).clip(2, 512).astype(int)
    assert best_fit_decreasing(lengths, 512).efficiency > 0.99
    assert one_per_row(lengths, 512).efficiency < 0.25


def test_no_document_is_longer_than_a_row():
    for plan in (best_fit_decreasing, one_per_row):
        with pytest.raises(ValueError, match="65 positions does not fit in a row of 64"):
            plan([3, 65], 64)


def test_padding_is_a_segment_of_its_own_and_batches_are_stacked():
    rows = PackedRows(Documents([4, 3]), best_fit_decreasing([3, 2], 8), pad_id=PAD, source=1)
    batch = rows.collate([rows[0], rows.blank()])
    assert batch.input_ids.tolist() == [[0, 1, 2, 4, 5, PAD, PAD, PAD], [PAD] * 8]
    assert batch.labels.tolist() == [[1, 2, 3, 5, 6, IGNORE, IGNORE, IGNORE], [IGNORE] * 8]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2], [*range(8)]]
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2], [0] * 8]
    assert batch.source.tolist() == [[1] * 8] * 2
    assert {tensor.dtype for tensor in batch} == {torch.int64}


def test_unpacked_batches_lose_the_columns_that_are_all_padding():
    rows = PackedRows(Documents([4, 3]), one_per_row([3, 2], 8), pad_id=PAD, trim=True)
    batch = rows.collate([rows[0], rows[1], rows.blank()])
    assert batch.input_ids.tolist() == [[0, 1, 2], [4, 5, PAD], [PAD] * 3]
    assert batch.labels.tolist() == [[1, 2, 3], [5, 6, IGNORE], [IGNORE] * 3]


def test_trained_labels_are_those_of_the_rows():
    documents = Documents([4, 3], [[False, False, True, True], [True, True, False]])
    assert trained_labels(documents, best_fit_decreasing([3, 2], 8)).tolist() == [2, 3, 5]
