"""Races are as large as the machine allows, and say so."""

from dataclasses import replace

import pytest
import torch
from benchmarks import sizing
from benchmarks.generation import work as generation
from benchmarks.instruction import work as instruction
from benchmarks.preference import work as preference
from benchmarks.scaling.work import Settings as Scaling
from benchmarks.sizing import STARTS, Machine, products_a_second
from benchmarks.training.work import Settings as Training
from benchmarks.tuning.settings import StageSettings

from lit_llm.runtime import processor


def machine(speed, minutes=1.0):
    return Machine(minutes, 1, lambda *_: speed)


def test_parts_fill_the_minutes_and_are_at_least_one():
    """60 seconds for 5 rounds and the starts of contestants that take three times their 2e9 operations."""
    a_part = {"32-true": 2e9 / sizing.SLOWER}
    for seconds, parts in ((60 / (5 + STARTS), 1), (60 / (5 + STARTS) / 3, 3), (1e-9, 4), (1e9, 1)):
        assert machine(2e9 / (seconds * 0.999)).parts(a_part, rounds=5, most=4) == parts
    both = machine(1e9)
    assert both.parts({"bf16-mixed": 1e9, "32-true": 1e9}, 5, 100) < both.parts({"32-true": 1e9}, 5, 100)
    assert "1 minutes on a machine of 1 in bfloat16 and 1 in float32 billion" in both.said("2 steps")


@pytest.mark.parametrize(("speed", "size"), [(1e9, 1), (1e15, None)])
def test_works_take_their_size_from_the_machine(monkeypatch, speed, size):
    monkeypatch.setattr(sizing, "products_a_second", lambda *_: speed)
    monkeypatch.setattr(Machine.__init__, "__defaults__", (lambda *_: speed,))
    for work, name, most in (
        (preference, "comparisons", preference.STEPS * 8),
        (instruction, "conversations", instruction.STEPS * 16),
        (generation, "prompts", 2 * 32),
    ):
        settings = work.Settings()
        sized, said = settings.sized()
        batch = settings.batch
        assert getattr(sized, name) == (batch if size else most) and "billion operations a second" in said[0]
        assert replace(sized).sized() == (sized, [])  # a number that is given stands


@pytest.mark.parametrize("has", [True, False])
def test_without_bf16_units_nobody_races_in_bf16_unasked(monkeypatch, has):
    monkeypatch.setattr(processor, "has_bf16", lambda: has)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert StageSettings().precision == (("bf16-mixed", "32-true") if has else ("32-true",))
    assert generation.Settings().precision == (("bf16", "fp32") if has else ("fp32",))
    assert Training().precision == ("bf16-true" if has else "32-true",)
    assert Scaling().precision == Training().precision[0]


def test_the_speed_is_that_of_products():
    threads = torch.get_num_threads()
    assert 1e8 < products_a_second(1) < 1e13 and torch.get_num_threads() == threads
