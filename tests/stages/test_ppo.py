"""PPO: it raises a reward; it starts at ratio 1 and KL 0; nothing outside the mask counts; it resumes exactly."""

import math
from functools import partial

import lightning as L
import pytest
import torch

from lit_llm.backbone.completions import logps_and_entropy
from lit_llm.backbone.models import ScoreModel
from lit_llm.errors import UserError
from lit_llm.generation.sampling import generate
from lit_llm.optim.adamw import adamw
from lit_llm.optim.schedules import linear
from lit_llm.records import Message
from lit_llm.stages.experience import Sequences
from lit_llm.stages.options import PPOOptions
from lit_llm.stages.ppo import PPO
from lit_llm.training.trainer import StopAfter

from .toy import END, LIKED, VOCABULARY, loader, made, parts, prompt_batch, tiny_model, trainer


class LikedShare:
    """A programmatic reward: twice the share of an answer's tokens that are LIKED, whatever the prompt."""

    def score_tokens(self, input_ids, lengths):
        return torch.tensor([2 * (row[:n] == LIKED).float().mean() for row, n in zip(input_ids, lengths, strict=True)])

    def __call__(self, *_):
        raise AssertionError("token scores were to be used")


class Examined(LikedShare):
    validated = True

    def __init__(self, folder):
        self.folder = str(folder)

    def __call__(self, prompts, completions):  # noqa: ARG002
        return [0.0 for _ in completions]


def ppo(model=None, reward=None, lr=3e-3, **options):
    given = {"max_new_tokens": 8, "end_ids": (END,), "epochs": 2, "minibatches": 2, "missing_eos_penalty": 0.0}
    return made(PPO, model=model or tiny_model(), reward=reward or LikedShare(), **parts(lr), **{**given, **options})


def fit(stage, rollouts, prompts=16, **options):
    run = trainer(max_steps=rollouts, max_epochs=-1, **options)
    run.fit(stage, loader([prompt_batch(prompts, seed=i) for i in range(rollouts)]))
    return run


def mean_reward(model, seed=123):
    batch = prompt_batch(128, seed=seed)
    rollout = generate(model, (batch.input_ids, batch.lengths), max_new_tokens=8, end_ids=(END,), seed=seed)
    return LikedShare().score_tokens(rollout.input_ids, rollout.lengths).mean().item()


@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.slow)])
def test_it_raises_a_reward_from_a_random_policy(precision):
    stage = ppo(kl_coef=0.01)
    before = mean_reward(stage.model)
    fit(stage, 25, prompts=32, precision=precision)
    after = mean_reward(stage.model)
    assert before < 0.2 and after > before + 0.4


def test_a_dear_kl_holds_the_policy_back():
    kl = {}
    for coef in (0.0, 2.0):
        kl[coef] = fit(ppo(kl_coef=coef), 12, prompts=32).logged_metrics["objective/kl"].item()
    assert kl[0.0] > 1.0 and kl[2.0] < 0.5 * kl[0.0]


def test_the_first_rollout_starts_at_kl_0_and_ratio_1_even_with_dropout_in_the_model():
    stage = ppo(model=tiny_model(dropout=0.3), lr=1e-30, kl_coef=0.05)
    logged = fit(stage, 1).logged_metrics
    assert logged["objective/kl"].item() == 0 and logged["objective/non_score_reward"].item() == 0
    assert logged["policy/ratio"].item() == pytest.approx(1, abs=1e-6)
    assert logged["policy/approx_kl"].item() == pytest.approx(0, abs=1e-12)  # without gradients it may round otherwise
    assert logged["policy/clipfrac"].item() == 0 and logged["val/clipfrac"].item() == 0
    assert logged["objective/rlhf_reward"].item() == pytest.approx(logged["objective/scores"].item())
    assert logged["policy/sampling_gap"].item() < 1e-4
    assert logged["policy/entropy"].item() == pytest.approx(math.log(VOCABULARY), abs=0.05)


def test_under_autocast_every_update_sees_the_weights_that_the_one_before_made():
    """Autocast may keep cast weights while its context lasts, and all updates of a rollout are in one."""
    gaps = [
        fit(ppo(epochs=epochs, minibatches=1), 1, precision="bf16-mixed").logged_metrics["policy/approx_kl"].item()
        for epochs in (1, 2, 3)
    ]
    assert gaps[0] == 0 and gaps[1] > 1e-6 and gaps[2] > 1.5 * gaps[1]  # a mean over updates that move on


def test_every_name_is_logged():
    logged = set(fit(ppo(), 1).logged_metrics)
    objective = {"kl", "rlhf_reward", "scores", "non_score_reward", "response_length", "eos_rate", "kl_coef"}
    names = {f"objective/{name}" for name in objective} | {"val/clipfrac", "val/explained_variance"}
    names |= {f"policy/{name}" for name in ("entropy", "clipfrac", "approx_kl", "ratio", "grad_norm")}
    assert names | {"loss/policy", "loss/value", "train/loss", "train/lr"} <= logged


def test_steps_and_schedules_count_rollouts():
    options = PPOOptions(max_new_tokens=4, end_ids=(END,), epochs=3, minibatches=2, value_lr_ratio=10.0)
    optimizer = partial(adamw, lr=1e-3)
    stage = PPO(options, model=tiny_model(), reward=LikedShare(), optimizer=optimizer, schedule=linear)
    run = fit(stage, 4)
    assert run.global_step == 4
    assert run.logged_metrics["train/lr"].item() == pytest.approx(1e-3 / 4) and run.logged_metrics["train/updates"] == 6
    policy, value = run.optimizers
    assert policy.param_groups[0]["initial_lr"] == 1e-3 and value.param_groups[0]["initial_lr"] == pytest.approx(1e-2)


def test_a_run_that_a_callback_ends_spans_its_schedule_over_those_rollouts():
    stage = ppo()
    run = trainer(max_steps=-1, max_epochs=-1, callbacks=[StopAfter(3)])
    run.fit(stage, loader([prompt_batch(4, seed=i) for i in range(2)]))
    assert (stage.total_steps(), run.global_step) == (3, 3)


def test_micro_batches_change_memory_not_results():
    def trained(micro):
        stage = ppo(micro_batch_size=micro)
        fit(stage, 2)
        return torch.cat([p.flatten() for p in stage.model.parameters()])

    torch.testing.assert_close(trained(None), trained(3), rtol=1e-3, atol=1e-4)


def test_the_reference_and_the_reward_model_stay_and_stay_out_of_checkpoints():
    score = ScoreModel.from_language_model(tiny_model())

    class Learned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = score

        def score_tokens(self, input_ids, lengths):
            return self.model(input_ids, lengths)

    stage = ppo(reward=Learned(), value_init="reward")
    assert torch.equal(stage.value.score.weight, score.score.weight) and stage.value is not score
    before = {k: v.clone() for k, v in torch.nn.Module.state_dict(stage).items()}
    fit(stage, 2)
    changed = {k for k, v in torch.nn.Module.state_dict(stage).items() if not torch.equal(v, before[k])}
    assert {key.split(".")[0] for key in changed} == {"model", "value"}
    assert {key.split(".")[0] for key in stage.state_dict()} == {"model", "value", "adapted_kl_coef"}
    assert not any(value.dtype == torch.float64 for value in stage.state_dict().values())  # MPS has none


def test_a_stopped_run_goes_on_bitwise(tmp_path):
    def run(steps, resume=None):
        stage = ppo(adaptive_kl_target=0.01, adaptive_kl_horizon=100)
        engine = trainer(max_steps=steps, max_epochs=-1)
        batches = [prompt_batch(16, seed=i) for i in range(4)]
        batches = batches if resume is None else batches[2:] + batches[:2]  # the place in the data is the loader's care
        engine.fit(stage, loader(batches), ckpt_path=resume, weights_only=True)
        return stage, engine

    whole, _ = run(4)
    _, engine = run(2)
    engine.save_checkpoint(tmp_path / "half.ckpt")
    again, engine = run(4, resume=tmp_path / "half.ckpt")
    assert engine.global_step == 4
    for (name, one), two in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_adaptive_kl_moves_the_coefficient_towards_its_target():
    stage = ppo(kl_coef=0.5, adaptive_kl_target=0.01, adaptive_kl_horizon=100)
    run = fit(stage, 6, prompts=32)
    assert stage.adapted_kl_coef.item() > 0.5 and run.logged_metrics["objective/kl_coef"].item() > 0.4


def test_updates_end_early_above_the_target_kl():
    logged = fit(ppo(target_kl=1e-7, epochs=4, lr=1e-2), 2).logged_metrics
    assert logged["train/updates"].item() < 8


def test_an_unfinished_answer_pays_the_penalty():
    with_penalty, without = (
        fit(ppo(missing_eos_penalty=penalty, lr=1e-30), 1).logged_metrics for penalty in (1.0, 0.0)
    )
    unfinished = 1 - without["objective/eos_rate"].item()
    assert unfinished > 0
    gap = without["objective/rlhf_reward"].item() - with_penalty["objective/rlhf_reward"].item()
    assert gap == pytest.approx(unfinished, abs=1e-5)
    assert without["objective/scores"].item() == with_penalty["objective/scores"].item()


def test_completions_are_scored_as_one_row_at_a_time_and_padding_does_not_matter():
    model, value = tiny_model(), ScoreModel.from_language_model(tiny_model())
    value.reward_mean.fill_(0.3)
    value.reward_std.fill_(2.0)
    batch = prompt_batch(6)
    rollout = generate(model, (batch.input_ids, batch.lengths), max_new_tokens=8, end_ids=(END,), temperature=0.7)
    sequences = Sequences(rollout)
    packed = sequences.packed(torch.arange(6))
    before, after = value.completion_values(packed)
    logps, entropy, values = (
        sequences.matrix(packed, each) for each in (*logps_and_entropy(model, packed, 0.7), before)
    )
    torch.testing.assert_close(logps, sequences.sampled_logps(rollout), rtol=1e-4, atol=1e-5)
    for b in range(6):
        start, end = int(rollout.prompt_lengths[b]), int(rollout.lengths[b])
        row = rollout.input_ids[b : b + 1, :end]
        every = (model.logits(model(row))[0].double() / 0.7).log_softmax(-1)
        state_values = value.values(row)[0]
        for c in range(end - start):
            place = start - 1 + c
            assert logps[b, c].item() == pytest.approx(every[place, row[0, place + 1]].item(), abs=1e-4)
            assert entropy[b, c].item() == pytest.approx(-(every[place].exp() * every[place]).sum().item(), abs=1e-4)
            assert values[b, c].item() == pytest.approx((state_values[place].item() - 0.3) / 2, abs=1e-5)
        assert after[b].item() == pytest.approx((state_values[end - 1].item() - 0.3) / 2, abs=1e-5)
        assert sequences.mask[b].sum() == end - start
    padded = Sequences(rollout._replace(input_ids=torch.nn.functional.pad(rollout.input_ids, (0, 3), value=LIKED)))
    assert torch.equal(padded.packed(torch.arange(6)).input_ids, packed.input_ids)


class Words:
    """A tokenizer of numbers, and a reward that reads text."""

    end_ids, pad_id = (END,), 0

    def decode(self, ids):
        return " ".join(map(str, ids))


def test_a_reward_of_texts_gets_the_prompts_messages_and_the_answer_without_its_end():
    seen = []

    def reward(prompts, completions):
        seen.append((prompts, completions))
        return [float(len(text)) for text in completions]

    class Data(L.LightningDataModule):
        prompts = [type("P", (), {"messages": (Message("user", f"question {i}"),)}) for i in range(4)]  # noqa: RUF012

        def train_dataloader(self):
            return loader([prompt_batch(4)])

    stage = PPO(PPOOptions(max_new_tokens=50), model=tiny_model(), reward=reward, tokenizer=Words(), **parts())
    run = trainer(max_steps=1, max_epochs=-1)
    run.fit(stage, datamodule=Data())
    prompts, completions = seen[0]
    assert [messages[0].content for messages in prompts] == [f"question {i}" for i in range(4)]
    assert run.logged_metrics["objective/eos_rate"] > 0 and not any(str(END) in text.split() for text in completions)


def test_validation_scores_the_same_answers_every_time():
    stage, run = ppo(lr=1e-30), trainer(max_steps=1, max_epochs=-1)
    run.fit(stage, loader([prompt_batch(4)]), loader([prompt_batch(8, seed=3)]))
    first = {k: v.item() for k, v in run.logged_metrics.items() if k.startswith("val/set0")}
    run = trainer()
    again = run.validate(stage, loader([prompt_batch(8, seed=3)]), verbose=False)[0]
    assert first["val/set0/scores"] == pytest.approx(again["val/set0/scores"]) and first["val/set0/kl"] == 0
    assert {"val/set0/response_length", "val/set0/eos_rate", "val/loss"} <= set(again)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl_coef": -1.0}, "kl_coef: -1.0"),
        ({"clip_range": 0.0}, "clip_range"),
        ({"temperature": 0.0}, "temperature"),
        ({"gamma": 1.5}, "gamma"),
        ({"epochs": 0}, "epochs"),
        ({"target_kl": -0.1}, "target_kl"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
        ({"end_ids": ()}, "end_ids"),
        ({"end_ids": (VOCABULARY,)}, "end_ids"),
        ({"value_init": "best"}, "value_init: best"),
        ({"reward": 3}, "int cannot be called"),
        ({"reward": lambda *_: [0.0]}, "no tokenizer"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_stage_is_made(options, message):
    with pytest.raises(UserError, match=message):
        ppo(**options)


def test_a_reward_model_of_another_vocabulary_is_refused():
    class Other(LikedShare):
        model = ScoreModel.from_language_model(tiny_model())

    Other.model.config = type(Other.model.config)(**{**vars(Other.model.config), "vocab_size": VOCABULARY + 1})
    with pytest.raises(UserError, match=f"{VOCABULARY + 1} tokens, the policy's {VOCABULARY}"):
        ppo(reward=Other())


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "nan for answer"), (float("inf"), "inf for answer")])
def test_a_reward_that_is_no_number_stops_before_the_update(value, message):
    class Bad(LikedShare):
        def score_tokens(self, input_ids, lengths):
            return torch.full(lengths.shape, value) * input_ids.shape[0]

    stage = ppo(reward=Bad())
    before = {k: v.clone() for k, v in stage.state_dict().items()}
    with pytest.raises(UserError, match=message):
        fit(stage, 1)
    assert all(torch.equal(v, before[k]) for k, v in stage.state_dict().items())


def test_another_reference_is_noticed_before_the_update():
    stage = ppo()
    with torch.no_grad():
        stage.reference.backbone.embed_tokens.weight.normal_()
    with pytest.raises(UserError, match="policy and reference differ"):
        fit(stage, 1)
