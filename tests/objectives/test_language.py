"""Cross-entropy and log-probabilities against loops in float64."""

import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_llm.objectives.language import cross_entropy, token_entropy, token_logps
from lit_llm.records import IGNORE
from tests.padded_rows import completion_labels


def problem(seed=0, rows=2, tokens=5, width=4, vocabulary=7, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, tokens, width, generator=g, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=g, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, vocabulary, (rows, tokens), generator=g)
    labels[0, 1] = labels[1, -1] = IGNORE
    return hidden, weight, labels


def by_hand(hidden, weight, labels, z_loss=0.0, temperature=1.0):
    """Explicit loops: (loss, {position: log-probability})."""
    hidden, weight = hidden.detach(), weight.detach()
    total, logps = 0.0, {}
    for b in range(labels.shape[0]):
        for t in range(labels.shape[1]):
            if labels[b, t] == IGNORE:
                continue
            logits = [float(hidden[b, t] @ weight[v]) / temperature for v in range(weight.shape[0])]
            lse = math.log(sum(math.exp(x) for x in logits))
            logps[b, t] = logits[labels[b, t]] - lse
            total += -logps[b, t] + z_loss * lse**2
    return total, logps


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_the_sum_is_that_of_explicit_loops(chunk, z_loss):
    hidden, weight, labels = problem()
    result = cross_entropy(hidden, weight, labels, z_loss=z_loss, chunk_tokens=chunk)
    assert result.loss.item() == pytest.approx(by_hand(hidden, weight, labels, z_loss)[0], rel=1e-12)
    assert result.nll.item() == pytest.approx(by_hand(hidden, weight, labels)[0], rel=1e-12)
    assert result.tokens.item() == 8 and not result.nll.requires_grad


@pytest.mark.parametrize("keep", [10**9, 7 * 8 * 4, 0], ids=["one block", "blocks of four rows", "every row"])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_gradients_of_cross_entropy_by_finite_differences(chunk, keep, monkeypatch):
    monkeypatch.setattr("lit_llm.objectives.language._KEEP_BYTES", keep)
    monkeypatch.setattr("lit_llm.objectives.language._LEAST_ROWS", 1)
    hidden, weight, labels = problem()
    assert torch.autograd.gradcheck(
        lambda h, w: 0.37 * cross_entropy(h, w, labels, z_loss=0.1, chunk_tokens=chunk).loss, (hidden, weight)
    )


@pytest.mark.parametrize("keep", [True, False])
def test_gradients_of_token_logps_by_finite_differences(keep, monkeypatch):
    monkeypatch.setattr("lit_llm.objectives.language._KEEP_BYTES", 10**9 if keep else 0)
    hidden, weight, labels = problem()
    assert torch.autograd.gradcheck(lambda h, w: token_logps(h, w, labels, 0.7, chunk_tokens=3), (hidden, weight))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_token_logps_and_entropy_are_those_of_explicit_loops(temperature):
    hidden, weight, labels = problem()
    logps = token_logps(hidden, weight, labels, temperature, chunk_tokens=4)
    expected = by_hand(hidden, weight, labels, temperature=temperature)[1]
    for (b, t), value in expected.items():
        assert logps[b, t].item() == pytest.approx(value, rel=1e-12)
    assert (logps[labels == IGNORE] == 0).all()
    entropy = token_entropy(hidden, weight, temperature)
    for b, t in expected:
        p = torch.softmax(hidden[b, t] @ weight.T / temperature, -1).tolist()
        assert entropy[b, t].item() == pytest.approx(-sum(x * math.log(x) for x in p), rel=1e-10)


def test_logps_sum_to_the_cross_entropy_and_gradients_agree():
    hidden, weight, labels = problem(tokens=40)
    one = torch.autograd.grad(cross_entropy(hidden, weight, labels).loss, (hidden, weight))
    two = torch.autograd.grad(-token_logps(hidden, weight, labels).sum(), (hidden, weight))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_float32_is_close_to_float64_and_large_logits_do_not_overflow():
    hidden, weight, labels = problem()
    single = cross_entropy(hidden.float() * 300, weight.float(), labels).loss
    double = cross_entropy(hidden * 300, weight, labels).loss
    assert single.dtype == torch.float32 and single.item() == pytest.approx(double.item(), rel=1e-5)


def test_autocast_runs_in_bfloat16_and_keeps_float32_results_and_head_gradients():
    hidden, weight, labels = (t.detach() for t in problem(tokens=50, width=16))
    hidden, weight = hidden.float().requires_grad_(), weight.float().requires_grad_()
    exact = cross_entropy(hidden, weight, labels).loss
    exact_grad = torch.autograd.grad(exact, weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = cross_entropy(hidden, weight, labels).loss
        logps = token_logps(hidden, weight, labels)
    rough_grad = torch.autograd.grad(rough, weight)[0]
    assert rough.dtype == logps.dtype == rough_grad.dtype == torch.float32
    assert 0 < abs(rough - exact) / exact < 0.02
    assert (rough_grad - exact_grad).norm() < 0.03 * exact_grad.norm()
    assert -logps.sum().item() == pytest.approx(rough.item(), rel=1e-5)


def test_nothing_to_train_is_a_zero_with_zero_gradients():
    hidden, weight, labels = problem()
    result = cross_entropy(hidden, weight, torch.full_like(labels, IGNORE))
    (result.loss + token_logps(hidden, weight, torch.full_like(labels, IGNORE)).sum()).backward()
    assert result.loss.item() == 0 and result.tokens.item() == 0
    assert hidden.grad.abs().max() == 0 and weight.grad.abs().max() == 0


def test_without_gradients_nothing_is_kept_for_them():
    hidden, weight, labels = problem()
    with torch.no_grad():
        result = cross_entropy(hidden, weight, labels)
    assert not result.loss.requires_grad
    assert result.loss.item() == pytest.approx(by_hand(hidden, weight, labels)[0], rel=1e-12)


def test_log_probabilities_without_gradients_hold_one_chunk_at_a_time():
    hidden, weight, labels = problem(rows=4, tokens=64)
    weight.requires_grad_()  # as a model's in an evaluation
    with Sizes() as sizes, torch.no_grad():
        token_logps(hidden, weight, labels, chunk_tokens=32)
    assert sizes.softmaxes_at_once <= 2  # one is made while the last one still has its name
    with Sizes() as sizes:
        kept = token_logps(hidden, weight, labels, chunk_tokens=32)
    assert sizes.softmaxes_at_once == 8 and kept.requires_grad


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 50))
def test_hidden_states_outside_the_mask_change_nothing(seed, scale):
    hidden, weight, labels = problem(seed)
    other = hidden.detach().clone()
    other[labels == IGNORE] += scale
    other.requires_grad_()
    for function in (lambda h: cross_entropy(h, weight, labels).loss, lambda h: token_logps(h, weight, labels).sum()):
        before, after = function(hidden), function(other)
        assert torch.equal(before, after)
        assert torch.equal(torch.autograd.grad(before, weight)[0], torch.autograd.grad(after, weight)[0])


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_micro_batches_divided_by_the_whole_count_equal_one_batch(cut, seed):
    hidden, weight, labels = problem(seed, rows=6)
    whole = cross_entropy(hidden, weight, labels)
    expected = torch.autograd.grad(whole.loss / whole.tokens, weight)[0]
    total = torch.zeros_like(weight)
    for rows in (slice(0, cut), slice(cut, 6)):
        total += torch.autograd.grad(cross_entropy(hidden[rows], weight, labels[rows]).loss / whole.tokens, weight)[0]
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)


def test_a_large_vocabulary_never_holds_all_logits(monkeypatch):
    """Of logits a block is made at once, of probabilities a few rows; never tokens x vocabulary."""
    hidden, weight, labels = problem(rows=16, tokens=64, vocabulary=500, dtype=torch.float32)
    monkeypatch.setattr("lit_llm.objectives.language._CPU_CHUNK_BYTES", 4 * 500 * 64)
    monkeypatch.setattr("lit_llm.objectives.language._CPU_SOFTMAX_BYTES", 4 * 500 * 40)
    monkeypatch.setattr("lit_llm.objectives.language._KEEP_BYTES", 4 * 500 * 300)
    with Sizes() as sizes:
        cross_entropy(hidden, weight, labels).loss.backward()
    assert sizes.largest == 300 * 500 and sizes.softmax == 40 * 500
    with Sizes() as sizes, torch.no_grad():
        cross_entropy(hidden, weight, labels)
    assert sizes.largest == 256 * 500
    with Sizes() as sizes:
        token_logps(hidden, weight, labels).sum().backward()
    assert sizes.largest == sizes.softmax == 256 * 500


class Sizes(TorchDispatchMode):
    """Numbers in the largest tensor that is made, and in the largest softmax; how many softmaxes there are at once."""

    def __init__(self):
        super().__init__()
        self.largest = self.softmax = self.softmaxes_at_once = 0
        self._alive = weakref.WeakValueDictionary()  # a set compares, and tensors compare by element

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if torch.is_tensor(each) and not any(each is given for given in args):
                self.largest = max(self.largest, each.numel())
                if "softmax" in func.__name__:
                    self.softmax = max(self.softmax, each.numel())
                    self._alive[id(each)] = each
                    self.softmaxes_at_once = max(self.softmaxes_at_once, len(self._alive))
        return made


def test_extreme_logits_keep_their_loss_and_gradient():
    """Probabilities that underflow to zero still have their log-probability."""
    hidden = torch.tensor([[300.0, -300.0]], requires_grad=True)
    weight = torch.eye(2)
    result = cross_entropy(hidden, weight, torch.tensor([1]))
    assert result.loss.item() == 600.0
    assert torch.autograd.grad(result.loss, hidden)[0].tolist() == [[1.0, -1.0]]


def test_completion_labels_include_the_end_token_and_nothing_else():
    end = pad = 9  # padding that looks like the end token is told apart by the lengths
    ids = torch.tensor([[1, 2, 3, 4, end, pad, pad], [1, 2, 3, 4, 5, 6, end]])
    labels = completion_labels(ids, torch.tensor([3, 1]), torch.tensor([5, 7]))
    _ = IGNORE
    assert labels.tolist() == [[_, _, 4, end, _, _, _], [2, 3, 4, 5, 6, end, _]]


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_the_same():
    hidden, weight, labels = problem()
    for objective in (lambda h, w: cross_entropy(h, w, labels).loss, lambda h, w: token_logps(h, w, labels).sum()):
        (both, _) = torch.autograd.grad(objective(hidden, weight), (hidden, weight))
        frozen = weight.detach()
        (alone,) = torch.autograd.grad(objective(hidden, frozen), (hidden,))
        assert torch.equal(both, alone) and frozen.grad is None


def test_capped_logits_in_the_losses():
    """Against their definition, in float64."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(7, 5, dtype=torch.float64), torch.randn(11, 5, dtype=torch.float64)
    labels, cap = torch.randint(0, 11, (7,)), 1.3

    def plain(h, w, temperature=1.0):
        return torch.log_softmax(cap * torch.tanh(h @ w.T / cap) / temperature, dim=-1)

    results = []
    for kind in range(2):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if kind:
            loss = cross_entropy(h, w, labels, softcap=cap, chunk_tokens=2).loss
            logps = token_logps(h, w, labels, 0.7, chunk_tokens=3, softcap=cap)
        else:
            loss = -plain(h, w).gather(1, labels[:, None]).sum()
            logps = plain(h, w, 0.7).gather(1, labels[:, None])[:, 0]
        gradients = torch.autograd.grad(loss, (h, w)) + torch.autograd.grad((logps * torch.arange(7)).sum(), (h, w))
        results.append((loss, logps, *gradients))
    torch.testing.assert_close(results[1], results[0])
    every = plain(hidden, weight, 0.7)
    torch.testing.assert_close(token_entropy(hidden, weight, 0.7, cap), -(every.exp() * every).sum(-1))
