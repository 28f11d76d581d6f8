"""The plan of a chain: every step in its order, from what the few steps of the one before it made."""

import re

import pytest

from lit_llm.config.command_line import compose
from lit_llm.errors import UserError
from lit_llm.pipeline.plan import lines, run
from tests.chain_data import chain_overrides


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["measure=no"], "measure=no: must be measure=true"),
        (["stage=pretraining", "look=true"], "look=true: shows what a run will train on, as scripts/prepare.py does"),
        (["hparams_search=pretraining"], "hparams_search=pretraining: describes many runs, and a plan is of one"),
        (["stage=pretraning"], "did you mean pretraining?"),
        (["--multirun", "seed=1,2"], "--multirun: a plan is of one run"),
    ],
)
def test_a_mistake_is_one_line(given, said):
    with pytest.raises(UserError, match=re.escape(said)):
        run(given)


def test_without_measuring_only_what_has_its_data_is_planned(data, tmp_path):
    told = "\n".join(lines(compose("pipeline", chain_overrides(data, tmp_path / "cache")), False))
    assert "memory" in told and "rankings" in told and "leave measure=false out" in told


LEAST = "skip=[continued_pretraining,fine_tuning,flag_classification,ppo]"


@pytest.mark.parametrize("skip", [[LEAST], pytest.param([], marks=pytest.mark.slow)])
def test_every_step_of_a_chain_is_planned_and_the_sum_is_said(data, tmp_path, skip):
    words = [*chain_overrides(data, tmp_path / "cache"), *skip]
    words += ["stages.instruction_tuning.init_from='@pretraining'"] if skip else []
    cfg = compose("pipeline", words)
    told = list(lines(cfg, True))
    table = told[next(number for number, line in enumerate(told) if line.startswith("step")) + 1 :]
    steps = [line.split()[0] for line in table if line and not line.startswith(("launch", "in all", "Then"))]
    assert steps == [line.split()[1] for line in told if re.match(r"\[\d+/\d+\] ", line)]
    assert {"pretraining", "rankings", "reward_modeling", "dpo"} <= set(steps) and ("ppo" in steps) == (not skip)
    assert "unknown" not in "".join(table) and any(line.startswith("in all") for line in table)
    assert not (tmp_path / "cache/stages").exists()
