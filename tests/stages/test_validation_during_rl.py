"""Validation of the reward in both stages that learn from their own answers: before the first step, and later."""

import json

import lightning as L
import pytest
import torch

from lit_llm.evaluation.statistics import Estimate
from lit_llm.records import Message, Prompt
from lit_llm.rewards.validation.gate import RewardValidationFailed
from lit_llm.rewards.validation.result import Probe, ValidationResult
from lit_llm.stages import reward_monitor
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.ppo import PPO

from .test_ppo import Examined, Words
from .toy import loader, made, parts, prompt_batch, tiny_model, trainer

STAGES = pytest.mark.parametrize("kind", [PPO, GRPO])


class Data(L.LightningDataModule):
    prompts = [Prompt((Message("user", f"question {i}"),)) for i in range(4)]  # noqa: RUF012

    def train_dataloader(self):
        return loader([prompt_batch(4, seed=i) for i in range(6)])


def policy(kind, folder, passed, **options):
    (folder / "reward_validation.json").write_text(
        json.dumps({"passed": passed, "reasons": ["fooled"]}), encoding="utf-8"
    )
    given = {"max_new_tokens": 6, "epochs": 1, "reward_validation_every_n_steps": 2, **parts(), **options}
    return made(kind, model=tiny_model(), reward=Examined(folder), tokenizer=Words(), **given)


@STAGES
def test_a_reward_that_failed_is_refused_before_any_step_unless_that_is_ignored(kind, tmp_path):
    with pytest.raises(RewardValidationFailed, match="fooled"):
        policy(kind, tmp_path, False)
    assert policy(kind, tmp_path, False, ignore_reward_validation=True).monitor.folders == (str(tmp_path),)


@STAGES
def test_a_run_that_a_validation_ended_says_so_and_does_not_go_on(kind, tmp_path, monkeypatch, caplog):
    share, seen = [0.9], []

    def rerun(reward, prompts, completions, **_):  # noqa: ARG001
        seen.append(len(completions))
        probe = Probe(share[0], 0.01, 8, 0.2, share[0] <= 0.2)
        return ValidationResult(Estimate(0.7, 0.01, 8), {}, {"empty": probe})

    def run(resume=None, **options):
        stage = policy(kind, tmp_path, True, **options)
        engine = trainer(max_steps=6, max_epochs=-1, default_root_dir=tmp_path)
        engine.fit(stage, datamodule=Data(), ckpt_path=resume, weights_only=True)
        return stage, engine

    monkeypatch.setattr(reward_monitor, "rerun", rerun)
    stage, engine = run()
    assert engine.global_step == 2 and stage.ended and seen == [4 * stage.group_size]
    assert engine.logged_metrics["reward_validation/passed"] == 0
    assert engine.logged_metrics["reward_validation/empty"].item() == pytest.approx(0.9)
    engine.save_checkpoint(tmp_path / "end.ckpt")
    again, engine = run(tmp_path / "end.ckpt")
    assert engine.global_step == 2 and len(seen) == 1 and "a validation of the reward ended this run" in caplog.text
    assert all(
        torch.equal(one, two) for one, two in zip(stage.model.parameters(), again.model.parameters(), strict=True)
    )
    share[0] = 0.1
    again, engine = run(tmp_path / "end.ckpt", ignore_reward_validation=True)
    assert engine.global_step > 2 and not again.ended
