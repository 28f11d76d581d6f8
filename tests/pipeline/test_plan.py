"""The plan of a chain: every step in its order, from what the few steps of the one before it made."""

import hashlib
import multiprocessing
import os
import re
import signal
import sys
import tempfile

import pytest

from lit_llm.config.command_line import compose
from lit_llm.errors import UserError
from lit_llm.pipeline.plan import plan_chain, run
from lit_llm.training.plan import timing
from tests.chain_data import chain_overrides
from tests.training.plan.test_plan import WORDS

FORK = multiprocessing.get_context("fork")


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
    lines: list[str] = []
    plan_chain(compose("pipeline", chain_overrides(data, tmp_path / "cache")), False, tmp_path / "plan", lines.append)
    told = "\n".join(lines)
    assert "memory" in told and "rankings" in told and "leave measure=false out" in told


LEAST = "skip=[continued_pretraining,fine_tuning,flag_classification,ppo]"


@pytest.mark.parametrize("skip", [[LEAST], pytest.param([], marks=pytest.mark.slow)])
def test_every_step_of_a_chain_is_planned_and_the_sum_is_said(data, tmp_path, skip):
    words = [*chain_overrides(data, tmp_path / "cache"), *skip]
    words += ["stages.instruction_tuning.init_from='@pretraining'"] if skip else []
    cfg = compose("pipeline", words)
    told: list[str] = []
    plan_chain(cfg, True, tmp_path / "plan", told.append)
    table = told[next(number for number, line in enumerate(told) if line.startswith("step")) + 1 :]
    steps = [line.split()[0] for line in table if line and not line.startswith(("launch", "in all", "Then"))]
    assert steps == [line.split()[1] for line in told if re.match(r"\[\d+/\d+\] ", line)]
    assert {"pretraining", "rankings", "reward_modeling", "dpo"} <= set(steps) and ("ppo" in steps) == (not skip)
    assert "unknown" not in "".join(table) and any(line.startswith("in all") for line in table)
    assert not (tmp_path / "cache/stages").exists()


def measuring(*_):
    print("measuring", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in which Python calls no handler


def planned(words, output):
    os.dup2(output, 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  a pipe: not by the line, as a terminal
    run(words)


def test_what_is_known_is_told_before_the_steps_and_a_signal_ends_these_at_once(data, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "measure", measuring)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    read, write = os.pipe()
    words = [*WORDS, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache"]
    process = FORK.Process(target=planned, args=(words, write))
    process.start()
    os.close(write)
    try:
        with os.fdopen(read, encoding="utf-8") as told:
            lines = []
            while (line := told.readline()) not in ("measuring\n", ""):
                lines.append(line.split()[0])
        assert list(tmp_path.glob("plan-*"))
        os.kill(process.pid, signal.SIGTERM)
        process.join(60)
        status = process.exitcode
    finally:
        process.kill()
    assert status == 128 + signal.SIGTERM and not list(tmp_path.glob("plan-*"))
    assert lines[:3] == ["model", "a", "weights"] and lines[-3:] == ["memory", "data", "tokens"]
