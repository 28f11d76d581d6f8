"""PPO with adapters: the reference is the policy without them, and nothing large is there twice."""

import copy

import pytest
import torch

from lit_llm.backbone import huggingface
from lit_llm.backbone.completions import completion_logps
from lit_llm.backbone.lora import merge_lora
from lit_llm.backbone.models import ScoreModel
from lit_llm.backbone.saved_adapters import load_adapter
from lit_llm.stages.experience import Sequences
from lit_llm.stages.ppo_setup import score_model_in

from .test_ppo import LikedShare, fit, ppo
from .toy import prompt_batch, tiny_model, trainer


class Learned(torch.nn.Module):
    """A reward model as ``LearnedReward`` holds one."""

    def __init__(self):
        super().__init__()
        self.model = ScoreModel.from_language_model(tiny_model(seed=5)).requires_grad_(False)

    def score_tokens(self, input_ids, lengths):
        return self.model(input_ids, lengths)


def held(*modules):
    """Numbers held in memory by all parameters, shared storage once."""
    parts = {p.data_ptr(): p.numel() for module in modules for p in module.parameters()}
    return sum(parts.values())


@pytest.mark.parametrize("value_init", ["reward", "zero"])
def test_with_adapters_no_network_is_held_twice(value_init):
    model, reward = tiny_model(), Learned()
    plain = held(model, reward)
    stage = ppo(model=model, reward=reward, lora_rank=2, value_init=value_init)
    added = sum(p.numel() for name, p in stage.named_parameters() if ".lora_" in name)
    assert held(stage) == plain + added + stage.value.score.weight.numel() and added < 0.25 * plain
    full = ppo(model=tiny_model(), reward=Learned(), value_init=value_init)
    assert held(full) > 1.6 * plain  # policy, reference, value and reward


def test_only_adapters_and_the_values_head_are_trained_and_the_reward_stays():
    reward = Learned()
    stage = ppo(reward=reward, lora_rank=2, lr=1e-2)
    before = {name: tensor.clone() for name, tensor in torch.nn.Module.state_dict(stage).items()}
    fit(stage, 2)
    after = torch.nn.Module.state_dict(stage)
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed and all(".lora_" in name or name == "value.score.weight" for name in changed)
    assert any(name.startswith("model.") for name in changed) and any(name.startswith("value.") for name in changed)


def test_the_reference_of_adapters_is_the_model_that_training_began_with():
    base = tiny_model()
    original = copy.deepcopy(base)
    stage = ppo(model=base, lora_rank=4, lr=1e-2)
    assert stage.reference is None
    fit(stage, 3)
    batch = prompt_batch(6, seed=9)
    rollout = stage.sampler.sample(batch, torch.Generator().manual_seed(0))
    sequences = Sequences(rollout)
    scored = stage.sampler.scored(sequences, [torch.arange(6)], first=False)
    packed = sequences.packed(torch.arange(6))
    torch.testing.assert_close(scored.reference, sequences.matrix(packed, completion_logps(original, packed)))
    assert (scored.logps - scored.reference).abs().max() > 1e-3


def test_the_merged_folder_and_the_adapter_on_its_base_answer_as_the_policy_does(tmp_path):
    stage = ppo(lora_rank=8, lr=2e-2, kl_coef=0.0)
    fit(stage, 2)
    rows = prompt_batch(2).input_ids
    assert (stage.model(rows) - tiny_model()(rows)).abs().max() > 1e-3
    stage.save(tmp_path / "model")
    merged = huggingface.load_model(tmp_path / "model", head="language")
    torch.testing.assert_close(merged(rows), stage.model(rows), rtol=1e-4, atol=1e-5)
    again = merge_lora(load_adapter(tmp_path / "adapter", tiny_model()))
    torch.testing.assert_close(again(rows), stage.model(rows), rtol=1e-4, atol=1e-5)
    assert stage.model.training is False and any(".lora_" in name for name, _ in stage.model.named_parameters())


def test_a_run_with_adapters_goes_on_bitwise(tmp_path):
    from .toy import loader

    def run(steps, batches, resume=None):
        stage, engine = ppo(lora_rank=2), trainer(max_steps=steps, max_epochs=-1)
        engine.fit(stage, loader(batches), ckpt_path=resume, weights_only=True)
        return stage, engine

    batches = [prompt_batch(8, seed=i) for i in range(3)]
    whole, _ = run(3, batches)
    _, engine = run(2, batches)
    engine.save_checkpoint(tmp_path / "half.ckpt")
    again, _ = run(3, batches[2:] + batches[:2], tmp_path / "half.ckpt")
    for (name, one), two in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_a_classifier_is_no_value_network():
    reward = Learned()
    assert score_model_in(reward) is reward.model and score_model_in(LikedShare()) is None
    reward.model.label = "flagged"
    assert score_model_in(reward) is None


@pytest.mark.parametrize("bootstrap", [True, False])
def test_a_cut_answer_ends_with_its_states_value_or_with_its_score_less_the_penalty(bootstrap):
    """With gamma = lambda = 1 and no KL, every return of an answer is what it ends with."""
    stage = ppo(bootstrap_truncated=bootstrap, missing_eos_penalty=None, kl_coef=0.0, lam=1.0, max_new_tokens=3)
    torch.nn.init.normal_(stage.value.score.weight)
    rollouts, experiences = [], []
    sample, experience = stage.sampler.sample, stage.experience
    stage.sampler.sample = lambda *given: rollouts.append(sample(*given)) or rollouts[-1]
    stage.experience = lambda *given, **named: experiences.append(experience(*given, **named)) or experiences[-1]
    value = copy.deepcopy(stage.value)
    fit(stage, 1)
    (rollout,), ((learned, _),) = rollouts, experiences
    scores = LikedShare().score_tokens(rollout.input_ids, rollout.lengths)
    assert not rollout.finished.all()
    for b, (end, finished) in enumerate(zip(rollout.lengths.tolist(), rollout.finished.tolist(), strict=True)):
        expected = scores[b].item() - float(not finished)
        if bootstrap and not finished:
            with torch.no_grad():
                expected = value.values(rollout.input_ids[b : b + 1, :end])[0, -1].item()
        for paid in learned.returns[b][learned.mask[b]].tolist():
            assert paid == pytest.approx(expected, abs=1e-4)
