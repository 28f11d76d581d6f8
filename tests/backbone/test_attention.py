"""Invariant: every backend equals the boolean mask, whatever the documents, the window and the grouping."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_llm.backbone import attention, flex
from lit_llm.backbone.attention import Backend, attend, build_mask, choose_backend, document_bounds
from lit_llm.backbone.visibility import PackedRows, allowed_pairs
from lit_llm.runtime import processor

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def oracle(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over what is allowed, written out; every key head is repeated for its query heads."""
    copies = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(copies, dim=1), v.repeat_interleave(copies, dim=1)
    scores = (q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    return torch.softmax(scores.masked_fill(~allowed[:, None], -torch.inf), dim=-1) @ v


def random_heads(seed: int, batch: int, length: int, groups: int, extent: int | None = None) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, 2 * groups, length, 4), *((batch, 2, extent or length, 4),) * 2)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@st.composite
def packed_rows(draw: st.DrawFn) -> Tensor:
    """(B, T) segments that ascend in every row, with documents of any length from 1 to T."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 24))
    starts = draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=batch, max_size=batch))
    return torch.tensor(starts, dtype=torch.int64).cumsum(dim=1)


@settings(max_examples=60, deadline=None)
@given(
    segments=packed_rows(),
    packed=st.booleans(),
    window=st.one_of(st.none(), st.integers(1, 30)),
    groups=st.sampled_from([1, 3]),
    seed=st.integers(0, 9),
)
def test_backends_equal_the_boolean_mask(
    segments: Tensor, packed: bool, window: int | None, groups: int, seed: int
) -> None:
    batch, length = segments.shape
    q, k, v = random_heads(seed, batch, length, groups)
    slots = torch.arange(length)[None]
    documents = segments if packed else None
    expected = oracle(q, k, v, allowed_pairs(slots, slots, documents, documents, window))
    backends: list[Backend] = ["explicit", "blocks", "sdpa"] + (["documents"] if packed else [])
    for backend in backends:
        mask = build_mask(length, CPU, q.dtype, documents, window, backend=backend)
        assert mask.backend == backend
        assert torch.allclose(attend(q, k, v, mask), expected, atol=1e-5), backend


def test_the_rule_by_hand() -> None:
    slots, segments = torch.arange(4)[None], torch.tensor([[0, 0, 1, 1]])
    seen = allowed_pairs(slots, slots, segments, segments)[0].int().tolist()
    assert seen == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    seen = allowed_pairs(slots, slots, window=2)[0].int().tolist()
    assert seen == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_bounds_of_documents() -> None:
    segments = torch.tensor([[0, 0, 1, 2], [5, 5, 5, 5]])
    assert document_bounds(segments, 4).tolist() == [[0, 0, 2], [0, 2, 3], [0, 3, 4], [1, 0, 4]]


def test_gradients_agree() -> None:
    segments = torch.tensor([[0] * 5 + [1] * 7, [0] * 9 + [1] * 3])
    gradients = {}
    for backend in ("explicit", "blocks", "sdpa", "documents"):
        tensors = [tensor.requires_grad_() for tensor in random_heads(1, 2, 12, 2)]
        mask = build_mask(12, CPU, torch.float32, segments, backend=backend)
        attend(*tensors, mask).square().sum().backward()
        gradients[backend] = [tensor.grad for tensor in tensors]
    for backend in ("blocks", "sdpa", "documents"):
        for mine, other in zip(gradients["explicit"], gradients[backend], strict=True):
            assert torch.allclose(mine, other, atol=1e-5), backend


def test_the_backend_follows_device_dtype_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "has_narrow_vectors", lambda: False)
    short, long = attention.SHORT_ROW, attention.SHORT_ROW + 1
    half, full = torch.bfloat16, torch.float32
    of_one, of_many = (PackedRows(torch.arange(long)[None], torch.arange(long)[None] // n) for n in (long, 40))
    plain: dict[str, Any] = {"packed": None, "windowed": False}
    packed, windowed = plain | {"packed": of_many}, plain | {"windowed": True}
    assert [choose_backend(CPU, half, n, **plain) for n in (short, long)] == ["blocks", "sdpa"]
    assert [choose_backend(CPU, full, n, **plain) for n in (short, long)] == ["sdpa", "sdpa"]
    assert [choose_backend(CPU, full, n, **packed) for n in (128, 129, long)] == ["sdpa", "blocks", "blocks"]
    assert [choose_backend(CPU, half, n, **packed) for n in (128, long)] == ["blocks", "blocks"]
    dense = [build_mask(256, CPU, dtype, torch.arange(256)[None] // 40).bias is not None for dtype in (half, full)]
    assert dense == [True, False]  # half precision reads all rows at once up to twice the length
    assert choose_backend(CPU, half, long, **packed | {"packed": of_one}) == "documents"
    assert choose_backend(CPU, half, long, **windowed) == "sdpa"
    assert [choose_backend(CUDA, half, short, **kind) for kind in (plain, packed, windowed)] == ["sdpa", "flex", "flex"]


def test_with_avx2_short_rows_of_float32_are_read_in_blocks_where_gradients_are_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor, "has_narrow_vectors", lambda: True)
    short, long, full = attention.SHORT_ROW, attention.SHORT_ROW + 1, torch.float32
    documents = torch.arange(256)[None] // 40
    plain: dict[str, Any] = {"packed": None, "windowed": False}
    assert [choose_backend(CPU, full, n, **plain) for n in (64, short, long)] == ["blocks", "blocks", "sdpa"]
    assert choose_backend(CUDA, full, short, **plain) == "sdpa"
    assert build_mask(256, CPU, full, documents).bias is not None and len(
        build_mask(257, CPU, full, documents[:, :1].expand(1, 257)).groups
    )
    with torch.no_grad():
        assert choose_backend(CPU, full, short, **plain) == "sdpa"
        assert choose_backend(CPU, torch.bfloat16, short, **plain) == "blocks"
        assert build_mask(256, CPU, full, documents).groups


def test_the_rule_of_flex_is_the_same_rule() -> None:
    """Its kernel needs CUDA; the rule it is built from does not, and uncompiled it runs here."""
    from torch.nn.attention.flex_attention import flex_attention

    segments = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
    q, k, v = random_heads(2, 2, 12, 2)
    slots = torch.arange(12)[None]
    for documents, window in ((segments, None), (segments, 4), (None, 4)):
        mask = build_mask(12, CPU, q.dtype, documents, window, backend="flex")
        expected = oracle(q, k, v, allowed_pairs(slots, slots, documents, documents, window))
        out = flex_attention(q, k, v, block_mask=mask.blocks, enable_gqa=True)
        assert torch.allclose(out, expected, atol=1e-5)
        cap = flex.softcap_rule(0.7)
        out = flex_attention(q, k, v, score_mod=cap, block_mask=mask.blocks, enable_gqa=True)
        capped = build_mask(12, CPU, q.dtype, documents, window, softcap=0.7)
        assert capped.backend == "explicit"
        assert torch.allclose(out, attend(q, k, v, capped), atol=1e-5)
        assert not torch.allclose(out, expected, atol=1e-3)


@pytest.mark.slow
def test_compiled_blocks_of_flex_are_the_same_for_every_batch() -> None:
    """On CUDA they are made by compiled code, also where the layers alone are compiled."""
    make = flex._compiled("create_block_mask")
    for seed in range(3):
        torch.manual_seed(seed)
        segments = torch.randint(0, 3, (2, 300)).sort(dim=1).values
        expected = flex.flex_blocks(300, CPU, segments, window=100)
        made = make(expected.mask_mod, 2, None, 300, 300, device=CPU)
        assert torch.equal(made.to_dense(), expected.to_dense()) and made.to_dense().sum() > 0


def test_one_token_sees_itself_even_in_half_precision() -> None:
    q, k, v = (tensor.to(torch.bfloat16) for tensor in random_heads(3, 1, 6, 1))
    mask = build_mask(6, CPU, torch.bfloat16, torch.arange(6)[None])
    assert torch.allclose(attend(q, k, v, mask).float(), v.float())
