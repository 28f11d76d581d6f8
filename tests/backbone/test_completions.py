"""Invariant: completions read as branches of their prompt are what each is behind the prompt alone, gradients too."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_convert

from lit_llm.backbone.attention import attend, branched_mask
from lit_llm.backbone.completions import completion_logps, pack, token_rows
from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.objectives.language import token_logps
from lit_llm.records import PackedCompletions
from lit_llm.runtime import processor
from tests.padded_rows import completion_labels

VOCABULARY = 17


def score_model(window: int | None = None) -> ScoreModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "intermediate_size": 16}
    config = from_depth(VOCABULARY, depth=2, max_positions=64, sliding_window=window, **shape)
    model = ScoreModel.from_language_model(LanguageModel(config)).double()
    model.reward_mean.fill_(0.3)
    return model


def packed_of(ids: Tensor, prompts: Tensor, lengths: Tensor, row_tokens: int | None = None) -> PackedCompletions:
    return pack(token_rows(ids, prompts, lengths), row_tokens=row_tokens)


def rows_of(prompts: list[list[int]], sizes: list[tuple[int, int]], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Padded rows, prompt lengths and lengths of completions of (prompt's number, size)."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.cat([torch.tensor(prompts[number]), torch.randint(0, 4, (size,), generator=generator)])
        for number, size in sizes
    ]
    starts = torch.tensor([len(prompts[number]) for number, _ in sizes])
    return pad_sequence(rows, batch_first=True, padding_value=9), starts, torch.tensor([len(row) for row in rows])


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 7)), min_size=1, max_size=9),
    width=st.integers(1, 40),
    window=st.sampled_from([None, 3]),
    seed=st.integers(0, 5),
)
def test_scores_and_their_gradients_are_those_of_padded_rows(
    sizes: list[tuple[int, int]], width: int, window: int | None, seed: int
) -> None:
    model = score_model(window)
    ids, prompts, lengths = rows_of([[5, 6, 7], [5, 6], [8]], sizes, seed)
    weights = torch.randn(len(ids), generator=torch.Generator().manual_seed(seed))
    found = []
    for scores in (model(ids, lengths), model.score_completions(packed_of(ids, prompts, lengths, width))):
        model.zero_grad()
        (scores * weights).sum().backward()
        found.append([scores, *(parameter.grad.clone() for parameter in model.parameters())])
    for plain, branched in zip(*found, strict=True):
        assert torch.allclose(plain, branched, rtol=1e-4, atol=1e-4)  # angles and scores are float32


def test_prompts_with_one_completion_each_are_packed_documents() -> None:
    ids, prompts, lengths = rows_of([[5, 6, 7], [5, 6], [8]], [(0, 2), (1, 3), (2, 1)])
    assert packed_of(ids, prompts, lengths).branches is None
    assert packed_of(*(part.repeat(2, *([1] * (part.dim() - 1))) for part in (ids, prompts, lengths))).branches is None
    assert packed_of(*rows_of([[5]], [(0, 2), (0, 3)])).branches is not None


def test_a_prompt_and_a_completion_are_read_once() -> None:
    ids, prompts, lengths = rows_of([[5, 6, 7, 8]], [(0, 2), (0, 3)])
    again = packed_of(ids.repeat(3, 1), prompts.repeat(3), lengths.repeat(3))
    assert again.input_ids.tolist() == [[5, 6, 7, 8, *ids[1, 4:7].tolist(), *ids[0, 4:6].tolist()]]
    assert again.positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 4, 5]]
    assert again.completion.tolist() == [0, 1] * 3
    assert again.before.tolist() == [3, 7, 3, 4, 5]  # both completions are foreseen from the prompt's end
    assert again.targets.tolist() == [*ids[0, 4:6].tolist(), *ids[1, 4:7].tolist()]


def test_what_does_not_fit_goes_on_behind_its_prompt_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids, prompts, lengths = rows_of([[5, 6, 7]], [(0, 4), (0, 4), (0, 4)])
    ids[1, 3], ids[2, 3] = 10, 11  # three unlike ones
    rows = packed_of(ids, prompts, lengths, row_tokens=11)
    assert rows.input_ids.shape == (1, 3 + 8 + 3 + 4)
    assert rows.segments.tolist() == [[0] * 11 + [1] * 7]
    assert rows.input_ids[0, 11:14].tolist() == [5, 6, 7]
    monkeypatch.setattr("lit_llm.backbone.completions.SHORT_ROW", 8)  # as if these were long, or on a GPU
    long = packed_of(ids, prompts, lengths, row_tokens=9)
    assert long.input_ids.shape == (2, 14)
    assert [row.count(5) for row in long.input_ids.tolist()] == [2, 1]
    assert long.segments[1].tolist() == [0] * 7 + [1] * 7  # padding is a segment of its own


@pytest.mark.parametrize("window", [None, 2])
def test_backends_agree(window: int | None) -> None:
    rows = packed_of(*rows_of([[5, 6, 7], [8]], [(0, 3), (1, 2), (0, 4)]), row_tokens=20)
    q, k, v = (torch.randn(rows.input_ids.shape[0], 2, rows.input_ids.shape[1], 4) for _ in range(3))
    masks = [
        branched_mask(rows.positions, rows.segments, rows.branches, q.dtype, window, backend)
        for backend in ("sdpa", "explicit", "blocks")
    ]
    for mask in masks[1:]:
        assert torch.allclose(attend(q, k, v, masks[0]), attend(q, k, v, mask), atol=1e-6)


def test_log_probabilities_are_those_of_padded_rows() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "intermediate_size": 16}
    model = LanguageModel(from_depth(VOCABULARY, depth=2, max_positions=64, **shape)).double()
    ids, prompts, lengths = rows_of([[5, 6, 7], [8]], [(0, 3), (1, 2), (0, 3), (0, 5)])
    labels = completion_labels(ids, prompts, lengths)
    padded = token_logps(model(ids), model.output_weight, labels)
    rows = packed_of(ids, prompts, lengths, row_tokens=9)
    logps = completion_logps(model, rows)
    assert torch.allclose(rows.sums(logps), padded.sum(1), atol=1e-6)
    aligned = torch.stack([padded[n, prompts[n] - 1 :][:5] for n in range(4)])
    assert torch.allclose(rows.matrix(logps, 5), aligned, atol=1e-6)
    assert rows.sizes.tolist() == (lengths - prompts).tolist()
    assert (rows.tokens, rows.longest) == (int(lengths.sum()), int(lengths.max()))


def test_keys_tell_tokens_and_where_the_prompt_ends() -> None:
    rows = [(np.array(prompt), np.array(answer)) for prompt, answer in (([5, 6], [7, 1]), ([5], [6, 7, 1]))]
    one, two = (key.tobytes() for key in pack(rows).host.keys)
    assert one != two and pack(rows[::-1] + rows[:1]).host.keys.tobytes() == two + one + one
    # As they stand in the files of log-probabilities under a reference: int64 tokens, then the prompt's length.
    text = np.array([5, 6, 7, 1], dtype=np.int64).tobytes() + (2).to_bytes(4, "little")
    assert one == hashlib.blake2b(text, digest_size=16).digest()


def test_what_the_host_knows_stays_there_when_the_tensors_are_moved() -> None:
    packed = pack([(np.array([5, 6]), np.array([7, 1])), (np.array([5, 6]), np.array([8, 1]))])
    moved = packed.to("meta")
    assert moved.host is packed.host and default_convert(packed).host is packed.host
    assert packed.host.vocabulary == (1, 8)
    tensors = [part for part in moved if isinstance(part, Tensor)]
    assert len(tensors) == 11 and all(each.is_meta for each in tensors)


def test_rows_without_a_prompt_are_packed() -> None:
    model = score_model()
    ids, _, lengths = rows_of([[5, 6, 7], [8]], [(0, 3), (1, 2), (0, 3), (0, 5), (1, 1)])
    rows = packed_of(ids, torch.zeros_like(lengths), lengths, row_tokens=12)
    assert rows.input_ids.numel() < ids.numel()
    assert torch.allclose(model.score_completions(rows), model(ids, lengths), atol=1e-5)


def test_with_avx2_alone_no_prompt_is_read_twice_where_a_short_row_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """There products take longest, which are what reading a prompt again costs."""
    ids, prompts, lengths = rows_of([list(range(150))], [(0, 100)] * 3)
    read = {}
    for narrow in (False, True):
        monkeypatch.setattr(processor, "has_narrow_vectors", lambda narrow=narrow: narrow)
        read[narrow] = packed_of(ids, prompts, lengths).input_ids.numel()
    assert read == {False: 3 * 250, True: 150 + 3 * 100}


def test_the_gradients_are_the_same_whenever_they_are_computed_by_several_threads() -> None:
    """A hundred completions share the place before them: their gradients are added there in one order."""
    torch.manual_seed(0)
    model = LanguageModel(from_depth(64, depth=1, hidden_size=128, max_positions=2048))
    completions = packed_of(*rows_of([[1, 2, 3]], [(0, 8)] * 100))
    assert len(completions.before) * 128 > 2**15  # torch's loops are shared out from there on
    before, found = torch.get_num_threads(), set()
    torch.set_num_threads(2)
    try:
        for _ in range(8):
            model.zero_grad()
            completion_logps(model, completions).sum().backward()
            gradient = model.backbone.embed_tokens.weight.grad
            assert gradient is not None
            found.add(hashlib.sha256(gradient.numpy().tobytes()).hexdigest())
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1
