"""What a command runs is what Hydra composes of conf/, by Hydra's own words alone."""

from __future__ import annotations

import subprocess
import sys
from itertools import cycle

import pytest

from lit_llm.config import schema
from lit_llm.config.command_line import check, compose
from lit_llm.config.conf_files import options
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.validation import validate
from lit_llm.errors import UserError

NEEDED = {
    "dpo": ["init_from=m", "data.path=p"], "reward_modeling": ["init_from=m", "data.path=p"],
    "flag_classification": ["init_from=m", "data.path=p"], "ppo": ["init_from=m", "stage.reward.folder=r"],
    "grpo": ["init_from=m"], "kto": ["init_from=m", "data.path=p"],
}  # fmt: skip
PLAIN = """
import hydra, json, sys
from omegaconf import OmegaConf
hydra.initialize_config_module("lit_llm.conf", version_base="1.3")
for line in sys.stdin:
    name, *words = json.loads(line)
    print(json.dumps(OmegaConf.to_container(hydra.compose(name, words), resolve=True)))
"""


def test_hydra_s_compose_gives_what_the_command_runs():
    """In a process that knows nothing but Hydra and the name of the package of the configuration."""
    import json

    asked = [
        ["train"],
        ["train", "stage=ppo", "init_from=m", "reward=length"],
        ["train", "run=dpo", "init_from=m", "data.path=p", "loss=ipo", "trainer.max_steps=5"],
        ["train", "stage=instruction_tuning", "format=alpaca", "optimizer=muon", "debug=limit"],
        ["train", "stage=dpo", "run=reward_modeling", "paths.outputs=elsewhere"],
        ["pipeline", "experiment=tiny", "debug=overfit", "rankings=ask", "loss@stages.dpo.stage.loss=ipo"],
    ]
    given = "".join(json.dumps(one) + "\n" for one in asked)
    done = subprocess.run(
        [sys.executable, "-c", PLAIN], input=given, capture_output=True, text=True, timeout=200, check=True
    )
    for (name, *words), line in zip(asked, done.stdout.splitlines(), strict=True):
        assert hydra_words(name, words) == words
        assert json.loads(line) == json.loads(json.dumps(schema.plain(compose(name, words)))), words


@pytest.mark.parametrize("stage", options("run"))
def test_stage_and_run_are_one(stage):
    assert compose("train", [f"stage={stage}"]) == compose("train", [f"run={stage}"])


@pytest.mark.parametrize("stage", ["pretraining", "continued_pretraining", "ppo"])
def test_a_run_takes_every_option_of_its_groups(stage):
    """What conf/run/ says belongs to no option of a group alone: it is no unknown key of another."""
    for optimizer, schedule in zip(cycle(options("optimizer")), options("schedule"), strict=False):
        validate(
            compose(
                "train", [f"stage={stage}", *NEEDED.get(stage, []), f"optimizer={optimizer}", f"schedule={schedule}"]
            )
        )


def test_a_limit_that_is_given_stands_in_place_of_the_usual_one():
    def limits(*words):
        trainer = compose("train", list(words)).trainer
        return trainer.max_steps, trainer.max_epochs, trainer.max_tokens

    assert limits("stage=dpo") == (None, 1, None)
    assert limits("stage=dpo", "trainer.max_steps=7") == (7, None, None)
    assert limits("stage=grpo", "trainer.max_epochs=2") == (None, 2, None)
    assert limits("stage=grpo", "trainer.max_epochs=2", "trainer.max_steps=3") == (3, 2, None)
    chain = compose("pipeline", ["stages.dpo.trainer.max_epochs=2", "stages.ppo.trainer.max_tokens=9"]).stages
    assert (chain.dpo.trainer.max_steps, chain.dpo.trainer.max_epochs) == (None, 2)
    assert (chain.ppo.trainer.max_steps, chain.ppo.trainer.max_tokens) == (None, 9)


def test_all_lies_where_paths_say():
    cfg = compose("train", ["stage=fine_tuning", "paths.outputs=/big/disk"])
    assert cfg.data.cache_dir == "/big/disk/cache"
    chain = compose("pipeline", ["paths.outputs=/big/disk", "paths.cache=/fast"])
    assert (chain.people.folder, chain.cache_dir) == ("/big/disk/rankings", "/fast/stages")
    assert {step.data.cache_dir for step in chain.stages.values()} == {"/fast"} == {chain.annotation.cache_dir}


@pytest.mark.parametrize("name", options("hparams_search"))
def test_a_search_sweeps_keys_that_its_stage_has(name):
    import hydra

    from lit_llm.config.overrides import composing

    with composing():
        cfg = hydra.compose("train", [f"hparams_search={name}", f"stage={name}"], return_hydra_config=True)
    params = cfg.hydra.sweeper.params
    assert cfg.hydra.mode.name == "MULTIRUN" and params
    words = [f"{key}={str(values).split(',')[0]}" for key, values in params.items()]
    try:
        check("train", [f"stage={name}", *NEEDED.get(name, []), *words])
    except UserError as error:
        lines = str(error).splitlines()
        assert all("no such folder" in line or "no such file or folder" in line for line in lines), lines


@pytest.mark.parametrize("name", options("run"))
def test_a_search_by_optuna_draws_keys_that_its_stage_has_and_prunes_by_a_number_that_it_logs(name):
    import hydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from lit_llm.config import monitored_metrics
    from lit_llm.config.overrides import composing
    from lit_llm.training.search.space import split

    with composing():
        cfg = hydra.compose("train", [f"hparams_search=optuna/{name}"], return_hydra_config=True)
    sweeper = cfg.hydra.sweeper
    assert cfg.hydra.mode.name == "MULTIRUN" and sweeper._target_.endswith(".OptunaSweeper")
    searched, fixed = split(OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in sweeper.params.items()]))
    assert searched and not fixed
    for key, each in searched.items():
        parent, _, last = key.rpartition(".")
        assert last in OmegaConf.select(cfg, parent), key
        OmegaConf.update(cfg, key, each.first)
    values = schema.plain(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
    if sweeper.monitor is not None:
        callback = {"_target_": monitored_metrics.CHECKPOINTS, "monitor": sweeper.monitor.removeprefix("-")}
        assert list(monitored_metrics.faults("", {**values, "callbacks": {"search": callback}})) == []
