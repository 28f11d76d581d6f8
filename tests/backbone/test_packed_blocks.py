"""Invariant: packed rows in groups of blocks are attention by the rule of who sees whom, value and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lit_llm.backbone.attention import attend, build_mask
from lit_llm.backbone.packed_blocks import BLOCK, attend_in_groups, block_groups
from lit_llm.backbone.visibility import PackedRows

CPU = torch.device("cpu")
documents = st.lists(st.integers(1, 150), min_size=1, max_size=6)


def packed_rows(rows: list[list[int]], branched: bool, window: int | None) -> tuple[PackedRows, Tensor]:
    """Rows of documents of these sizes, cut at the shortest row, and (B, T, T) who sees whom, written down key by key.

    Branched: the second half of each document is two answers to the first.
    """
    length = min(sum(row) for row in rows)
    segments, positions, branches = (torch.zeros(len(rows), length, dtype=torch.int64) for _ in range(3))
    seen = torch.zeros(len(rows), length, length, dtype=torch.bool)
    for row, sizes in enumerate(rows):
        first = 0
        for number, size in enumerate(sizes):
            last, middle = first + size, first + size // 2
            answer = middle + (last - middle) // 2
            parts = [(first, middle), (middle, answer), (answer, last)] if branched else [(first, last)]
            for branch, (start, end) in enumerate(parts):
                for query in range(start, min(end, length)):
                    place = query - first if branch == 0 else middle - first + query - start
                    segments[row, query], branches[row, query], positions[row, query] = number, branch, place
                    prompt = [] if branch == 0 else range(first, middle)
                    for key in (*prompt, *range(start, query + 1)):
                        behind = place - (key - first if key < middle or branch == 0 else middle - first + key - start)
                        seen[row, query, key] = window is None or behind < window
            first = last
    return PackedRows(positions, segments, branches if branched else None, window), seen


def heads(packed: PackedRows, groups: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    rows, length = packed.segments.shape
    generator = torch.Generator().manual_seed(length)
    shapes = ((rows, 2 * groups, length, 4), *((rows, 2, length, 4),) * 2)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def plain(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    copies = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(copies, dim=1), v.repeat_interleave(copies, dim=1)
    scores = (q @ k.mT) / q.shape[-1] ** 0.5
    return torch.softmax(scores.masked_fill(~seen[:, None], -torch.inf), dim=-1) @ v


@settings(deadline=None, max_examples=40)
@given(st.lists(documents, min_size=1, max_size=3), st.booleans(), st.sampled_from([None, 5, 100]), st.integers(1, 3))
def test_value_and_gradients(rows: list[list[int]], branched: bool, window: int | None, shared: int) -> None:
    packed, seen = packed_rows(rows, branched, window)
    mine, twin = heads(packed, shared), heads(packed, shared)
    out, expected = attend_in_groups(*mine, block_groups(packed, torch.float64)), plain(*twin, seen)
    assert torch.allclose(out, expected, atol=1e-12)
    weights = torch.randn_like(expected)
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
    packed, seen = packed_rows([[150, 100, 90, 60], [40, 300, 60]], False, None)
    exact = heads(packed, 2, torch.float32)
    wanted = torch.autograd.grad(plain(*exact, seen).sum(), exact)
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


@pytest.mark.parametrize("window", [None, 70])
def test_long_packed_rows_take_them(window: int | None) -> None:
    """By the choice that the model makes, under gradient checkpointing."""
    packed, seen = packed_rows([[150, 100, 90], [40, 300], [340]], False, window)
    mask = build_mask(340, CPU, torch.float32, packed.segments, window)
    assert mask.groups and mask.bias is None
    mine, twin = heads(packed, 2, torch.float32), heads(packed, 2, torch.float32)
    got = torch.autograd.grad(checkpoint(attend, *mine, mask, use_reentrant=False).square().sum(), mine)
    wanted = torch.autograd.grad(plain(*twin, seen).square().sum(), twin)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, wanted, strict=True))


def test_rows_of_long_documents_are_left_to_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their probabilities would take too much memory."""
    monkeypatch.setattr("lit_llm.backbone.attention.SHORT_ROW", 140)
    segments = torch.arange(300)[None] // 100
    assert build_mask(300, CPU, torch.float32, segments).groups
    assert build_mask(300, CPU, torch.float32, segments // 2).backend == "documents"


def test_second_derivatives_are_refused() -> None:
    """They would leave out what the kept probabilities depend on."""
    packed, _ = packed_rows([[100, 40]], False, None)
    q, k, v = heads(packed, 1)
    (grad,) = torch.autograd.grad(
        attend_in_groups(q, k, v, block_groups(packed, q.dtype)).square().sum(), q, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(("branched", "window"), [(False, 5), (True, None)])
def test_the_operator_for_compiled_code_is_the_same(branched: bool, window: int | None) -> None:
    """Its schema, its shapes as the compiler is told them, its gradients: what the compiler relies on."""
    packed, _ = packed_rows([[50, 50, 40], [90, 50], [7, 40, 93]], branched, window)
    turned = [each.detach().float().transpose(1, 2).contiguous() for each in heads(packed, 2)]
    q, k, v = (each.transpose(1, 2).requires_grad_() for each in turned)  # as the model's heads lie in memory
    operator = torch.ops.lit_llm.attend_packed
    torch.library.opcheck(operator.default, (q, k, v, *packed))
    mine = torch.autograd.grad(operator(q, k, v, *packed).square().sum(), (q, k, v))
    out = attend_in_groups(q, k, v, block_groups(packed, q.dtype))
    twin = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert all(torch.equal(got, wanted) for got, wanted in zip(mine, twin, strict=True))
