"""No part of a batch's step asks the device for a number, or waits for a copy to it: it is run on a device that has no
numbers, and every copy to it is looked at."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_llm.objectives import preference
from lit_llm.objectives.ranking import bradley_terry, plackett_luce
from lit_llm.stages import kto
from lit_llm.stages.adherence import Adherence
from lit_llm.stages.flag_classification import FlagClassification
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.kto import KTO
from lit_llm.stages.ppo import PPO
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.reward_modeling import RewardModeling

from .test_attack_pairs import attacked
from .test_flag_classification import answers
from .test_kto import labelled
from .test_ppo import LikedShare
from .toy import END, loader, made, parts, prompt_batch, rankings, remade, tiny_model, trainer


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    """Autocast does not know the meta device."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def on(device, batch):
    return trainer().strategy.batch_to_device(batch, torch.device(device))


class NothingWaits(TorchDispatchMode):
    """Fails where the host's values go to the meta device as on CUDA they would block: in a copy that is not
    ``non_blocking``, as indices, and as a number of which a tensor is made there. A host's number in arithmetic with a
    tensor is an argument of the kernel, and no copy."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        found = {leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)} | devices
        name = func.overloadpacket.__name__
        moves = (devices == {"cpu"} and "meta" in found) or name in ("copy_", "index", "index_put_", "index_put")
        if (name == "lift_fresh" and found == {"meta"}) or (moves and {"cpu", "meta"} <= found):
            assert kwargs.get("non_blocking"), f"{name} waits for the device"
        return result


def step(stage, batch):
    """A step's part for one batch, on the meta device: what would copy from it, or wait for how many there are of
    something, fails."""
    stage.to("meta").train()
    batch = on("meta", batch)
    with NothingWaits():
        stage.training_step(batch, 0).backward()


def rewarded(loss=bradley_terry, **options):
    return made(RewardModeling, model=tiny_model(), loss=loss, **options, **parts())


def with_all(batch):
    return attacked(remade(batch, annotators=[0, 1] * 3, margins=[0.0, 0.5, 1.0] * 2))


LOSSES = (preference.dpo, preference.robust_dpo, preference.hinge, preference.ipo, preference.orpo, preference.simpo)


@pytest.mark.parametrize("loss", [bradley_terry, partial(bradley_terry, centering=0.1), plackett_luce])
def test_reward_modeling(loss):
    step(rewarded(loss), attacked(rankings(6)))
    step(rewarded(lora_rank=2), rankings(6))


def test_reward_modeling_with_annotators_margins_and_attacks():
    stage = rewarded(adherence="learned")
    stage.adherence = Adherence("ab", {"a": 3, "b": 3}, 10.0, 10.0)
    step(stage, with_all(rankings(6)))


@pytest.mark.parametrize("loss", LOSSES)
def test_dpo_and_its_kin(loss):
    stage = PreferenceOptimization(model=tiny_model(), loss=loss, **parts())
    stage._checked = True  # the first step alone asks whether policy and reference are one
    for _ in range(2):  # the reference is computed, and then known
        step(stage, rankings(6))


def test_kto_and_the_flag_classifier():
    stage = KTO(model=tiny_model(), **parts())
    stage._checked = True
    for _ in range(2):
        step(stage, labelled(6))
    step(FlagClassification(model=tiny_model(), **parts()), answers(8, 0))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PPO, {"epochs": 1}),
        (PPO, {"epochs": 1, "lora_rank": 2}),
        (GRPO, {"group_size": 2}),
        (GRPO, {"group_size": 2, "kl_coef": 0.1, "ratio": "sequence", "delta": 4.0}),
    ],
)
def test_a_minibatch_of_a_rollout(kind, options):
    given = {"end_ids": (END,), "max_new_tokens": 8, "minibatches": 2, "micro_batch_size": 3}
    stage, seen = made(kind, model=tiny_model(), reward=LikedShare(), **given, **options, **parts()), []
    whole = stage.gradients
    stage.gradients = lambda *args: (seen.append(args), whole(*args))[1]
    trainer(max_steps=1, max_epochs=-1).fit(stage, loader([prompt_batch(8)]))
    sequences, experience, share, _ = seen[0]
    stage.to("meta")
    sequences.device, sequences.mask, sequences._packed = torch.device("meta"), sequences.mask.to("meta"), {}
    sequences._places = {}
    moved = on("meta", experience)
    if isinstance(stage, GRPO):
        moved = moved._replace(taught=experience.taught)  # the host's
    with NothingWaits():
        assert "loss" in whole(sequences, moved, share, False)
        stage.sampler.scored(sequences, [share], first=False)


@pytest.mark.parametrize("what", ["item", "tolist", "cpu", "bool", "int", "nonzero", "mask"])
def test_a_step_that_asks_fails(what, monkeypatch):
    asks = {
        "item": lambda one: one.sum().item(),
        "tolist": lambda one: one.tolist(),
        "cpu": lambda one: one.cpu(),
        "bool": lambda one: bool(one.any()),
        "int": lambda one: int(one.sum()),
        "nonzero": lambda one: one.nonzero(),
        "mask": lambda one: one[one > 0],
    }
    baseline = kto.kto_baseline
    monkeypatch.setattr(kto, "kto_baseline", lambda drift: (asks[what](drift), baseline(drift))[1])
    stage = KTO(model=tiny_model(), **parts())
    stage._checked = True
    with pytest.raises((RuntimeError, NotImplementedError)):
        step(stage, labelled(6))
