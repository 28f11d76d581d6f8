"""``data.micro_batch_size=auto``: the most rows that fit and divide a step's, the same for whoever goes on."""

import json

import pytest
from safetensors.torch import load_file

from lit_llm.config.command_line import check, compose
from lit_llm.data.options import TextOptions
from lit_llm.errors import UserError
from lit_llm.training.plan import memory
from lit_llm.training.plan.micro_batch import FILE, settled
from lit_llm.training.plan.run_plan import plan_run
from lit_llm.training.train import run
from tests.training.plan.test_plan import words  # noqa: F401  a fixture

AUTO = ["data.micro_batch_size=auto", "trainer.global_batch_size=12"]


@pytest.fixture
def tight(words, tmp_path, monkeypatch):  # noqa: F811
    """Room for five rows at once, and not for six."""
    monkeypatch.setattr(memory, "process_bytes", lambda: 1e9)
    needs = [plan_run(compose("train", [*words, f"data.micro_batch_size={rows}"]), False, tmp_path / f"{rows}").memory
             for rows in (5, 6)]  # fmt: skip
    monkeypatch.setattr(memory, "available", lambda _: sum(needs) / 2 / memory.SPARE)


@pytest.mark.usefixtures("tight")
def test_the_most_rows_that_fit_divide_a_step(words, tmp_path):  # noqa: F811
    cfg = settled(compose("train", [*words, *AUTO]), tmp_path)
    assert cfg.data.micro_batch_size == 4 and cfg.trainer.global_batch_size == 12
    assert json.loads((tmp_path / FILE).read_text()) == {"rows": 4}


def test_whoever_goes_on_takes_what_was_found(words, tmp_path):  # noqa: F811
    (tmp_path / FILE).write_text('{"rows": 3}')
    assert settled(compose("train", [*words, *AUTO]), tmp_path).data.micro_batch_size == 3


@pytest.mark.usefixtures("tight")
def test_a_run_is_that_of_the_number(words, tmp_path):  # noqa: F811
    run(compose("train", [*words, *AUTO]), tmp_path / "auto")
    run(compose("train", [*words, "data.micro_batch_size=4", AUTO[1]]), tmp_path / "four")
    auto, four = (load_file(tmp_path / name / "model/model.safetensors") for name in ("auto", "four"))
    assert auto.keys() == four.keys() and all((auto[key] == four[key]).all() for key in auto)


def test_it_needs_a_step_s_rows_and_is_no_number_of_prompts():
    with pytest.raises(UserError, match="needs trainer"):
        check("train", ["stage=pretraining", AUTO[0]])
    with pytest.raises(UserError, match="'auto': must be int"):
        check("train", ["stage=grpo", "init_from=x", AUTO[0]])
    with pytest.raises(UserError, match="give a number here"):
        _ = TextOptions(micro_batch_size="auto").rows_at_once
