"""Invariant: what the reward model cannot tell apart, or its ensemble quarrels about, is ranked first."""

import pytest

from lit_llm.feedback.uncertainty import uncertainty


def test_by_hand():
    p = 1 / (1 + 2.718281828459045**-2)
    assert uncertainty([[2.0, 0.0]]) == pytest.approx(p * (1 - p))
    assert uncertainty([[0.0, 0.0, 0.0]]) == pytest.approx(0.25)
    q = 1 / (1 + 2.718281828459045**-1)
    own, between = (p * (1 - p) + q * (1 - q)) / 2, (p - q) ** 2 / 4  # the law of total variance
    assert uncertainty([[2.0, 0.0], [1.0, 0.0]]) == pytest.approx(own + between)


def test_sure_models_come_last():
    agreed, unsure, quarrel = [[9.0, 0.0], [9.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]], [[9.0, 0.0], [0.0, 9.0]]
    assert uncertainty(agreed) < uncertainty(unsure) < uncertainty(quarrel)
