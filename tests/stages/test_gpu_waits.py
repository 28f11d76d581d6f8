"""On a GPU no step of a stage waits for it: torch itself is told to fail where one does."""

from contextlib import contextmanager

import pytest
import torch

from lit_llm.stages.flag_classification import FlagClassification
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.kto import KTO
from lit_llm.stages.ppo import PPO
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.reward_modeling import RewardModeling

from .test_flag_classification import answers
from .test_kto import labelled
from .test_ppo import LikedShare
from .toy import END, loader, made, parts, prompt_batch, rankings, tiny_model, trainer


@contextmanager
def nothing_waits():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_gpu(batch):
    return trainer().strategy.batch_to_device(batch, torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (RewardModeling, lambda seed: rankings(6, seed=seed)),
        (PreferenceOptimization, lambda seed: rankings(6, seed=seed)),
        (KTO, lambda seed: labelled(6, seed=seed)),
        (FlagClassification, lambda seed: answers(8, seed)),
    ],
)
def test_a_step(kind, make):
    stage = kind(model=tiny_model(), **parts()).cuda().train()
    stage._checked = True
    warm, new = on_gpu(make(0)), on_gpu(make(1))
    stage.training_step(warm, 0).backward()  # kernels are made
    with nothing_waits():
        for batch in (warm, new):  # what is known of the reference, and what is not
            stage.training_step(batch, 0).backward()


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "options"), [(PPO, {"epochs": 1}), (GRPO, {"group_size": 2, "kl_coef": 0.1})])
def test_a_minibatch_of_a_rollout(kind, options):
    """The first warms up; the checks of the first update wait, and are over."""
    given = {"end_ids": (END,), "max_new_tokens": 8, "minibatches": 2, "micro_batch_size": 3}
    stage, seen = made(kind, model=tiny_model(), reward=LikedShare(), **given, **options, **parts()), []
    whole = stage.gradients

    def gradients(sequences, experience, share, check):
        if check:
            return whole(sequences, experience, share, check)
        with nothing_waits():
            seen.append(share)
            return whole(sequences, experience, share, check)

    stage.gradients = gradients
    trainer(accelerator="gpu", devices=1, max_steps=1, max_epochs=-1).fit(stage, loader([prompt_batch(8)]))
    assert len(seen) == 1
