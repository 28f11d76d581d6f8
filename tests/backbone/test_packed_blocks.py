"""Invariant: packed rows in groups of blocks are attention by the rule of who sees whom, value and gradients."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lit_llm.backbone.attention import attend, build_mask
from lit_llm.backbone.packed_blocks import BLOCK, attend_in_groups, block_groups
from lit_llm.backbone.visibility import PackedRows

CPU = torch.device("cpu")
documents = st.lists(st.integers(1, 150), min_size=1, max_size=6)


def packed_rows(rows: list[list[int]], branched: bool, window: int | None) -> PackedRows:
    """Rows of documents of these sizes, cut at the shortest row; branched: half of each is a prompt of two answers."""
    length = min(sum(row) for row in rows)
    segments, positions, branches = (torch.zeros(len(rows), length, dtype=torch.int64) for _ in range(3))
    for row, sizes in enumerate(rows):
        for number, (end, size) in enumerate(zip(accumulate(sizes), sizes, strict=True)):
            place = torch.arange(size)
            answer = (size - size // 2) // 2
            branch = (
                (place >= size // 2).long() + (place >= size // 2 + answer) if branched else torch.zeros(size).long()
            )
            part = slice(end - size, end)
            count = max(0, min(end, length) - part.start)
            segments[row, part] = number
            branches[row, part] = branch[:count]
            positions[row, part] = torch.where(branch == 2, place - answer, place)[:count]
    return PackedRows(positions, segments, branches if branched else None, window)


def heads(packed: PackedRows, groups: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    rows, length = packed.segments.shape
    generator = torch.Generator().manual_seed(length)
    shapes = ((rows, 2 * groups, length, 4), *((rows, 2, length, 4),) * 2)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def plain(q: Tensor, k: Tensor, v: Tensor, packed: PackedRows) -> Tensor:
    copies = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(copies, dim=1), v.repeat_interleave(copies, dim=1)
    scores = (q @ k.mT) / q.shape[-1] ** 0.5
    return torch.softmax(scores.masked_fill(~packed.sees(packed)[:, None], -torch.inf), dim=-1) @ v


@settings(deadline=None, max_examples=40)
@given(st.lists(documents, min_size=1, max_size=3), st.booleans(), st.sampled_from([None, 5, 100]), st.integers(1, 3))
def test_value_and_gradients(rows: list[list[int]], branched: bool, window: int | None, shared: int) -> None:
    packed = packed_rows(rows, branched, window)
    mine, twin = heads(packed, shared), heads(packed, shared)
    out, expected = attend_in_groups(*mine, block_groups(packed, torch.float64)), plain(*twin, packed)
    assert torch.allclose(out, expected, atol=1e-12)
    weights = torch.randn_like(expected)
    # Used twice, as under gradient checkpointing: nothing that is kept may be spent.
    gradients = torch.autograd.grad(out, mine, weights, retain_graph=True)
    again = torch.autograd.grad(out, mine, weights)
    for got, repeated, wanted in zip(gradients, again, torch.autograd.grad(expected, twin, weights), strict=True):
        assert torch.equal(got, repeated) and torch.allclose(got, wanted, atol=1e-12)
    with torch.no_grad():  # where no probabilities are kept
        assert torch.equal(attend_in_groups(*mine, block_groups(packed, torch.float64)), out)


def test_nothing_before_the_block_of_a_document_is_read() -> None:
    """A row of one document, one of short ones: the first looks ever farther back, the others at a block or two."""
    segments = torch.stack([torch.zeros(6 * BLOCK).long(), torch.arange(6 * BLOCK) // (BLOCK // 2)])
    groups = block_groups(PackedRows(torch.arange(6 * BLOCK)[None], segments), torch.float32)
    reach = {
        int(query): keys.tolist() for group in groups for query, keys in zip(group.queries, group.keys, strict=True)
    }
    assert reach == {n: list(range(n + 1)) for n in range(6)} | {n: [n] for n in range(6, 12)}
    windowed = block_groups(PackedRows(torch.arange(6 * BLOCK)[None], segments, window=BLOCK + 1), torch.float32)
    assert max(group.keys.shape[1] for group in windowed) == 2
    assert len(groups) == 6  # products of one size are one product, of all rows


def test_half_precision_is_as_exact_as_the_plain_form() -> None:
    packed = packed_rows([[150, 100, 90, 60], [40, 300, 60]], False, None)
    exact = heads(packed, 2, torch.float32)
    wanted = torch.autograd.grad(plain(*exact, packed).sum(), exact)
    errors = {}
    for backend in ("explicit", "blocks"):
        half = [each.detach().bfloat16().requires_grad_() for each in exact]
        mask = build_mask(400, CPU, torch.bfloat16, packed.segments, backend=backend)  # type: ignore[arg-type]
        assert (mask.bias is None) == (backend == "blocks")
        got = torch.autograd.grad(attend(*half, mask).float().sum(), half)
        errors[backend] = max(
            float((a.float() - b).norm() / b.norm().clamp_min(1)) for a, b in zip(got, wanted, strict=True)
        )
    assert errors["blocks"] < 1.1 * errors["explicit"] < 0.1


def test_rows_of_long_documents_are_left_to_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their probabilities would take too much memory."""
    monkeypatch.setattr("lit_llm.backbone.attention.SHORT_ROW", 140)
    segments = torch.arange(300)[None] // 100
    assert build_mask(300, CPU, torch.float32, segments).groups
    assert build_mask(300, CPU, torch.float32, segments // 2).backend == "documents"


@pytest.mark.parametrize(("branched", "window"), [(False, 5), (True, None)])
def test_the_operator_for_compiled_code_is_the_same(branched: bool, window: int | None) -> None:
    """Its schema, its shapes as the compiler is told them, its gradients: what the compiler relies on."""
    packed = packed_rows([[50, 50, 40], [90, 50], [7, 40, 93]], branched, window)
    q, k, v = (each.detach().float().requires_grad_() for each in heads(packed, 2))
    operator = torch.ops.lit_llm.attend_packed
    torch.library.opcheck(operator.default, (q, k, v, *packed))
    mine = torch.autograd.grad(operator(q, k, v, *packed).square().sum(), (q, k, v))
    out = attend_in_groups(q, k, v, block_groups(packed, q.dtype))
    twin = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert all(torch.equal(got, wanted) for got, wanted in zip(mine, twin, strict=True))
