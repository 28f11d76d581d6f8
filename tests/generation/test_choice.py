"""Invariant: a token is drawn with its probability in the (truncated) distribution, and its log-probability says so."""

import pytest
import torch

from lit_llm.generation.choice import Choice

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -5.0]])


def drawn(choice, steps=20_000):
    uniforms = (torch.arange(steps) + 0.5) / steps  # a fine grid in place of chance
    tokens, logps = choice.pick(LOGITS.expand(steps, -1), uniforms)
    return torch.bincount(tokens, minlength=5) / steps, tokens, logps


def test_shares_are_the_probabilities():
    for temperature in (0.5, 1.0, 2.0):
        shares, tokens, logps = drawn(Choice(temperature))
        expected = (LOGITS[0] / temperature).softmax(-1)
        torch.testing.assert_close(shares, expected, atol=2e-4, rtol=0)
        torch.testing.assert_close(logps, expected.log()[tokens])


def test_top_k_and_top_p_keep_the_likeliest():
    p = LOGITS[0].softmax(-1)  # 0.64, 0.24, 0.09, 0.03, 0.0006
    for choice, kept in ((Choice(top_k=2), 2), (Choice(top_p=0.7), 2), (Choice(top_p=0.6), 1), (Choice(top_p=0.9), 3)):
        shares, _, _ = drawn(choice)
        expected = p.clone()
        expected[kept:] = 0
        torch.testing.assert_close(shares, expected / expected.sum(), atol=2e-4, rtol=0)
    assert torch.equal(drawn(Choice(top_k=99))[0], drawn(Choice())[0])


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.3, -torch.inf]])
    edges = torch.tensor([0.0, 1 - 2**-24, 0.5, 1.0])  # 1.0: rounding must not lead past the end either
    tokens, logps = Choice().pick(logits.expand(4, -1), edges)
    assert set(tokens.tolist()) <= {1, 3} and torch.isfinite(logps).all()


@pytest.mark.parametrize("vocabulary", [4096, 90, 300, 4096 + 3])
def test_a_number_at_the_border_of_a_block_draws_nothing_of_probability_zero(vocabulary):
    """Blocks' running sums are rounded: what is left for a block may be below 0, or its whole."""
    choice = Choice(0.1, top_k=vocabulary // 20)
    logits = 0.3 * torch.randn(40, vocabulary, generator=torch.Generator().manual_seed(0))
    logits[:, -3:] = -torch.inf  # zeros at the end of the last block
    sums = choice.logps(logits).exp().double().cumsum(-1)
    edges = torch.cat([sums[:, 63::64].float(), torch.tensor([[0.0, 1 - 2**-24, 1.0]]).expand(40, -1)], dim=-1)
    ones = torch.ones_like(edges)
    edges = torch.cat([edges.nextafter(-ones), edges, edges.nextafter(2 * ones)], dim=-1).clamp(0, 1)
    for uniforms in edges.t():
        assert torch.isfinite(choice.pick(logits, uniforms)[1]).all()


@pytest.mark.parametrize("vocabulary", [40, 90, 300, 4096])
def test_logits_that_are_no_numbers_give_a_token_of_the_vocabulary(vocabulary):
    """On a GPU another one would end the process before anyone can say what is wrong."""
    tokens, logps = Choice().pick(torch.full((3, vocabulary), torch.nan), torch.tensor([0.0, 0.5, 1.0]))
    assert ((tokens >= 0) & (tokens < vocabulary)).all() and logps.isnan().all()


def test_greedy_takes_the_likeliest_at_temperature_one():
    tokens, logps = Choice(0).pick(LOGITS, torch.zeros(1))
    assert tokens.item() == 0
    torch.testing.assert_close(logps, LOGITS.log_softmax(-1)[:, 0])
