"""Adapters handed on without a merge: one adapter on the first base, and a reference that is where it started."""

import copy
import json

import pytest
import torch

from lit_llm.backbone.adapter_folder import save_adapter_folder
from lit_llm.backbone.completions import completion_logps
from lit_llm.backbone.huggingface import load_model, save_model
from lit_llm.backbone.lora import adapted, apply_lora
from lit_llm.backbone.models import ScoreModel
from lit_llm.errors import UserError
from lit_llm.stages.experience import Sequences
from lit_llm.stages.instruction_tuning import InstructionTuning
from lit_llm.stages.kto import KTO
from lit_llm.stages.options import InstructionTuningOptions
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.reward_modeling import RewardModeling

from .test_grpo import fit as fit_grpo
from .test_grpo import grpo
from .test_kto import labelled
from .test_ppo import fit as fit_ppo
from .test_ppo import ppo
from .test_ppo_setup import held
from .test_reference import Data, fit
from .toy import loader, made, padded, parts, prompt_batch, rankings, tiny_model, trainer

LORA = {"lora_rank": 4, "lora_alpha": 8.0, "lora_merge": False}


@pytest.fixture
def tuned(tmp_path):
    """The folder of an adapter, on ``base/`` beside it; the stage that made it is over."""
    save_model(tmp_path / "base", tiny_model())
    stage = made(InstructionTuning, model=load_model(tmp_path / "base"), **parts(), **LORA)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in stage.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    stage.eval().save(tmp_path / "tuned")
    return tmp_path / "tuned"


def start(folder, head="language"):
    """What a stage of ``LORA`` is given by a run."""
    return load_model(folder, head, keep_adapter=True)


def base_named(folder):
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


@pytest.mark.parametrize(("kind", "make"), [(PreferenceOptimization, rankings), (KTO, labelled)])
def test_a_reference_is_the_adapter_that_the_stage_began_with(kind, make, tuned, tmp_path):
    stage = made(kind, model=start(tuned), **parts(lr=1e-2), **LORA)
    assert stage.reference is None
    fit(stage, Data(make, tmp_path / "data"))
    began, completions = load_model(tuned).eval(), make(3, seed=7).completions
    with torch.no_grad():
        expected = completions.sums(completion_logps(began, completions))
        stage._known = type(stage._known)({})  # computed now
        torch.testing.assert_close(stage.under_reference(completions), expected, rtol=1e-4, atol=1e-4)
        own = completions.sums(completion_logps(stage.model, completions))
        bare = completions.sums(completion_logps(load_model(tmp_path / "base").eval(), completions))
    assert (own - expected).abs().max() > 1e-2 and (bare - expected).abs().max() > 1e-2
    assert all(
        torch.equal(one, other)  # the held-out "before" is of these weights
        for one, other in zip(stage.started_from().parameters(), began.parameters(), strict=True)
    )
    stage.save(tmp_path / "aligned")
    assert base_named(tmp_path / "aligned") == base_named(tuned) == str(tmp_path / "base")
    found, ids = load_model(tmp_path / "aligned").eval(), padded(completions)[0]
    torch.testing.assert_close(found(ids), stage.model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("make", "fit_some"), [(ppo, fit_ppo), (grpo, fit_grpo)])
def test_a_policy_s_kl_is_from_where_it_started(make, fit_some, tuned, tmp_path):
    stage = make(model=start(tuned), lr=1e-2, **LORA)
    engine = fit_some(stage, 3)
    rollout = stage.sampler.sample(prompt_batch(6, seed=9), torch.Generator().manual_seed(0))
    sequences, began = Sequences(rollout), load_model(tuned).eval()
    packed = sequences.packed(torch.arange(6))

    def scored(stage):
        return stage.sampler.scored(sequences, [torch.arange(6)], first=False)

    expected = sequences.matrix(packed, completion_logps(began, packed))
    torch.testing.assert_close(scored(stage).reference, expected, rtol=1e-4, atol=1e-4)
    assert (scored(stage).logps - expected).abs().max() > 1e-3
    engine.save_checkpoint(tmp_path / "some.ckpt")
    again = type(stage).load_from_checkpoint(tmp_path / "some.ckpt", reward=stage.reward, model=start(tuned))
    assert torch.equal(scored(again).reference, scored(stage).reference)
    assert torch.equal(scored(again).logps, scored(stage).logps)


def test_a_value_network_of_an_adapted_policy_shares_the_base_and_has_an_adapter_of_its_own(tuned):
    model = start(tuned)
    before = held(model)
    stage = ppo(model=model, value_init="zero", **LORA)
    own = sum(p.numel() for name, p in stage.value.named_parameters() if ".lora_" in name)
    assert held(stage) == before + own + stage.value.score.weight.numel()
    one, other = (next(iter(adapted(network).values())) for network in (stage.model, stage.value))
    assert torch.equal(one.lora_B.weight, other.lora_B.weight) and one.lora_B.weight is not other.lora_B.weight
    assert one.weight is other.weight


def test_a_checkpoint_alone_holds_the_start_too(tuned, tmp_path):
    stage = made(PreferenceOptimization, model=start(tuned), **parts(lr=1e-2), **LORA)
    engine = trainer(max_epochs=1)
    engine.fit(stage, loader([rankings(4)]))
    engine.save_checkpoint(tmp_path / "a.ckpt")
    again = PreferenceOptimization.load_from_checkpoint(tmp_path / "a.ckpt")
    assert all(
        torch.equal(one, other)
        for one, other in zip(again.started_from().parameters(), stage.started_from().parameters(), strict=True)
    )


def test_a_reward_model_goes_on_from_the_adapter_and_its_folder_has_the_head(tuned, tmp_path):
    stage = made(RewardModeling, model=start(tuned), **parts(lr=0.05), **LORA)
    trainer(max_epochs=1).fit(stage, loader([rankings(8, seed=seed) for seed in range(4)]))
    stage.eval().save(tmp_path / "reward")
    batch, found = rankings(8), load_model(tmp_path / "reward", head="score").eval()
    with torch.no_grad():
        expected = stage.model.score_completions(batch.completions)
        torch.testing.assert_close(found.score_completions(batch.completions), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(found, ScoreModel) and base_named(tmp_path / "reward") == str(tmp_path / "base")
    value = ppo(model=start(tuned), reward=Rewards(found), **LORA).value
    with torch.no_grad():
        torch.testing.assert_close(value.eval().score_completions(batch.completions), expected, rtol=1e-4, atol=1e-5)


class Rewards(torch.nn.Module):
    """A reward model as ``LearnedReward`` holds one."""

    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)

    def score_tokens(self, input_ids, lengths):
        return self.model(input_ids, lengths)


def test_other_settings_than_the_adapter_s_are_refused_by_name(tuned):
    for options, given, right in (
        ({"lora_rank": 8}, "stage.lora_rank=8", "stage.lora_rank=4"),
        ({"lora_alpha": 32}, "stage.lora_alpha=32", "stage.lora_alpha=8"),
        ({"lora_rslora": True}, "stage.lora_rslora=true", "stage.lora_rslora=false"),
        ({"lora_dora": True}, "stage.lora_dora=true", "stage.lora_dora=false"),
        ({"lora_targets": ["q_proj"]}, r"stage.lora_targets=\[q_proj\]", r"stage.lora_targets=\[q_proj,k_proj,"),
    ):
        with pytest.raises(UserError, match=f"^{given}: the stage starts from an adapter.*: give {right}"):
            made(PreferenceOptimization, model=start(tuned), **parts(), **(LORA | options))
    with pytest.raises(UserError, match=r"stage.lora_merge=false: there are no adapters"):
        InstructionTuningOptions(lora_merge=False)


def test_a_base_of_no_folder_is_not_left_behind(tmp_path):
    with pytest.raises(UserError, match=r"stage.lora_merge=false: the base was not read from a folder"):
        save_adapter_folder(tmp_path / "model", apply_lora(tiny_model(), rank=2))


def test_without_adapters_all_weights_of_the_merged_model_train(tuned):
    stage = made(PreferenceOptimization, model=load_model(tuned), **parts())
    assert not adapted(stage.model) and all(weight.requires_grad for weight in stage.model.parameters())
    assert torch.equal(stage.reference.lm_head.weight, stage.model.lm_head.weight)
