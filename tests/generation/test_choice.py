"""Invariant: a token is drawn with its probability in the (truncated) distribution, and its log-probability says so."""

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


def test_greedy_takes_the_likeliest_at_temperature_one():
    tokens, logps = Choice(0).pick(LOGITS, torch.zeros(1))
    assert tokens.item() == 0
    torch.testing.assert_close(logps, LOGITS.log_softmax(-1)[:, 0])
