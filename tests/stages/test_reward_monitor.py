"""A reward that fails its validation: refused at the start; in the middle the run ends with the last good weights."""

import json
from dataclasses import asdict

import lightning as L
import pytest
import torch

from lit_llm.checkpointing.atomic import AtomicCheckpointIO
from lit_llm.errors import UserError
from lit_llm.evaluation.statistics import Estimate
from lit_llm.records import Message, Prompt
from lit_llm.rewards.validation.gate import RewardValidationFailed
from lit_llm.rewards.validation.result import Probe, ValidationResult
from lit_llm.rewards.validation.validator import RewardValidator
from lit_llm.stages import reward_monitor
from lit_llm.stages.options import PPOOptions
from lit_llm.stages.ppo import PPO
from lit_llm.text.attacks import ATTACKS

from .test_ppo import Examined, LikedShare, Words
from .toy import loader, made, parts, prompt_batch, tiny_model, trainer


class Data(L.LightningDataModule):
    prompts = [Prompt((Message("user", f"question {i}"),)) for i in range(8)]  # noqa: RUF012

    def train_dataloader(self):
        return loader([prompt_batch(8, seed=i) for i in range(6)])


def result(share):
    probe = Probe(share, 0.01, 8, 0.2, share <= 0.2)
    return ValidationResult(Estimate(0.7, 0.01, 8), {}, {"empty": probe})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "reward_validation.json").write_text(json.dumps({"passed": True, "reasons": []}), encoding="utf-8")
    return tmp_path


def trained(folder, steps=6, **options):
    """A run whose reward lies in ``folder``: the trainer after it."""
    given = {"max_new_tokens": 6, "epochs": 1, "reward_validation_every_n_steps": 2, **options}
    stage = made(PPO, model=tiny_model(), reward=Examined(folder), tokenizer=Words(), **parts(1e-2), **given)
    run = trainer(max_steps=steps, max_epochs=-1, default_root_dir=folder, plugins=[AtomicCheckpointIO()])
    run.fit(stage, datamodule=Data())
    return run


def fit(folder, shares, monkeypatch, steps=6, **options):
    """A run whose validations find these shares, and the policy's weights at the beginning of every validation."""
    weights, left = [], list(shares)

    def rerun(reward, prompts, completions, gold=None, rows=None, validator=None):  # noqa: ARG001
        assert len(prompts) == len(completions) == len(rows) == 8 and prompts[0][0].content == "question 0"
        weights.append({name: p.detach().clone() for name, p in stage.model.named_parameters()})
        return result(left.pop(0))

    monkeypatch.setattr(reward_monitor, "rerun", rerun)
    given = {"max_new_tokens": 6, "epochs": 1, "reward_validation_every_n_steps": 2, **options}
    stage = made(PPO, model=tiny_model(), reward=Examined(folder), tokenizer=Words(), **parts(1e-2), **given)
    run = trainer(max_steps=steps, max_epochs=-1, default_root_dir=folder, plugins=[AtomicCheckpointIO()])
    run.fit(stage, datamodule=Data())
    return stage, run, weights


def test_a_reward_that_fails_on_the_way_ends_the_run_with_the_last_good_weights(folder, monkeypatch, caplog):
    stage, run, weights = fit(folder, [0.1, 0.9], monkeypatch)
    assert run.global_step == 4 and len(weights) == 2  # exams before rollouts 2 and 4
    for name, parameter in stage.model.named_parameters():
        assert torch.equal(parameter, weights[0][name])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    (line,) = [record.message for record in caplog.records if "validation" in record.message]
    assert "90% of 8 prompts" in line and "stage=dpo" in line and "\n" not in line


def test_damaged_last_good_weights_are_not_loaded_and_named(folder, monkeypatch, caplog):
    """A flipped bit of a weight, which torch.load does not see."""

    def damaged(trainer):
        kept(trainer)
        file = folder / reward_monitor.LAST_GOOD
        content = torch.load(file, weights_only=True)
        next(iter(content["state_dict"].values())).flatten()[0] = 3.0
        torch.save(content, file)

    kept = reward_monitor.keep
    monkeypatch.setattr(reward_monitor, "keep", damaged)
    stage, run, weights = fit(folder, [0.1, 0.9], monkeypatch)
    assert run.global_step == 4
    for name, parameter in stage.model.named_parameters():
        assert torch.equal(parameter, weights[1][name])
    (line,) = [record.message for record in caplog.records if "validation" in record.message]
    assert "the weights of now are kept; " in line and "last_good.ckpt: " in line and "\n" not in line


def test_the_first_validation_on_the_way_goes_back_to_the_beginning(folder, monkeypatch):
    stage, run, _ = fit(folder, [0.9], monkeypatch)
    assert run.global_step == 2
    for mine, first in zip(stage.model.parameters(), tiny_model().parameters(), strict=True):
        assert torch.equal(mine, first)


def test_an_ignored_validation_warns_and_the_run_goes_on(folder, monkeypatch, caplog):
    _, run, weights = fit(folder, [0.9, 0.9], monkeypatch, ignore_reward_validation=True)
    assert run.global_step == 6 and len(weights) == 2 and caplog.text.count("going on") == 2


def test_a_passed_validation_is_logged(folder, monkeypatch):
    _, run, _ = fit(folder, [0.1], monkeypatch, steps=3)
    assert run.logged_metrics["reward_validation/passed"] == 1 and run.logged_metrics[
        "reward_validation/empty"
    ].item() == pytest.approx(0.1)


def test_a_model_without_a_validation_takes_one_before_anything_is_learned(tmp_path, monkeypatch):
    with pytest.raises(
        RewardValidationFailed, match=r"90% of 8 prompts.*stage=dpo.*stage\.ignore_reward_validation=true"
    ):
        fit(tmp_path, [0.9], monkeypatch, reward_validation_every_n_steps=None)
    _, run, weights = fit(tmp_path, [0.1], monkeypatch, steps=3, reward_validation_every_n_steps=None)
    assert run.global_step == 3 and len(weights) == 1


def test_a_failed_validation_refuses_the_stage_before_anything_is_built(folder):
    found = {"passed": False, "reasons": ["accuracy 0.5 is not above the floor"]}
    (folder / "reward_validation.json").write_text(json.dumps(found), encoding="utf-8")
    given = {"model": tiny_model(), "reward": Examined(folder), "tokenizer": Words(), **parts()}
    with pytest.raises(RewardValidationFailed, match="not above the floor"):
        PPO(**given)
    assert PPO(PPOOptions(ignore_reward_validation=True), **given).monitor.folders == (str(folder),)


def test_a_rule_is_not_validated(monkeypatch):
    monkeypatch.setattr(reward_monitor, "rerun", lambda *_, **__: pytest.fail("validated"))
    stage = PPO(
        PPOOptions(max_new_tokens=6, reward_validation_every_n_steps=1),
        model=tiny_model(),
        reward=LikedShare(),
        tokenizer=Words(),
        **parts(),
    )
    trainer(max_steps=2, max_epochs=-1).fit(stage, datamodule=Data())


def test_the_validation_on_the_way_has_the_settings_of_the_validation_that_was_passed(folder, caplog):
    """Nothing is replaced here: a reward that scores all alike ties with every attack, and 0.5 is above most limits."""
    assert trained(folder).global_step == 2 and "outscores the real answer on 50%" in caplog.text
    lenient = {f"limit_{attack}": 1.0 for attack in ATTACKS}
    for settings, steps in ((lenient, 6), (lenient | {"limit_empty": 0.45}, 2)):
        found = {"passed": True, "reasons": [], "settings": asdict(RewardValidator(**settings))}
        (folder / "reward_validation.json").write_text(json.dumps(found), encoding="utf-8")
        assert trained(folder).global_step == steps


def test_settings_that_no_validation_has_are_named(folder):
    found = {"passed": True, "reasons": [], "settings": {"limit_beauty": 0.1}}
    (folder / "reward_validation.json").write_text(json.dumps(found), encoding="utf-8")
    with pytest.raises(UserError, match=r"reward_validation\.json: settings: .*limit_beauty"):
        reward_monitor.validator_of([str(folder)])
