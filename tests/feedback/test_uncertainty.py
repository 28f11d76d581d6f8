"""Invariant: what the reward model cannot tell apart, or its ensemble quarrels about, is ranked first."""

import pytest

from lit_llm.feedback.uncertainty import uncertainty


def test_by_hand():
    p = 1 / (1 + 2.718281828459045**-2)
    assert uncertainty([[2.0, 0.0]]) == pytest.approx(p * (1 - p))
    assert uncertainty([[0.0, 0.0, 0.0]]) == pytest.approx(0.25)
    # p and 1 - p: the mean is a half, and the variance (p - 1/2)^2
    assert uncertainty([[2.0, 0.0], [0.0, 2.0]]) == pytest.approx(0.25 + (p - 0.5) ** 2)


def test_sure_models_come_last():
    agreed, quarrel, unsure = [[9.0, 0.0], [9.0, 0.0]], [[9.0, 0.0], [0.0, 9.0]], [[0.1, 0.0], [0.0, 0.1]]
    assert uncertainty(agreed) < uncertainty(unsure) < uncertainty(quarrel)
