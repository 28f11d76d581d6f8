"""GRPO: it raises a reward; groups are answers to one prompt; its gradient is the formula's; it resumes exactly."""

import math

import lightning as L
import pytest
import torch

from lit_llm.data.options import DataOptions
from lit_llm.errors import UserError
from lit_llm.generation.sampling import generate
from lit_llm.optim.schedules import constant
from lit_llm.records import Message, Prompt
from lit_llm.rewards.verifiers import ExactAnswer
from lit_llm.rewards.weighted import WeightedSum
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.options import GRPOOptions
from lit_llm.stages.rollout_warnings import RolloutWarnings
from lit_llm.training.trainer import StopAfter

from .toy import END, LIKED, VOCABULARY, loader, made, parts, prompt_batch, tiny_model, trainer


class LikedShare:
    """The share of an answer's tokens that are LIKED, whatever the prompt; remembers what it was shown."""

    def __init__(self):
        self.seen = []

    def score_tokens(self, input_ids, lengths):
        self.seen.append((input_ids, lengths))
        return torch.tensor([(row[:n] == LIKED).float().mean() for row, n in zip(input_ids, lengths, strict=True)])

    def __call__(self, *_):
        raise AssertionError("token scores were to be used")


class Constant(LikedShare):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def score_tokens(self, input_ids, lengths):
        return torch.full(lengths.shape, self.value) * len(input_ids) ** 0


def grpo(model=None, reward=None, lr=3e-3, **options):
    given = {"max_new_tokens": 8, "end_ids": (END,), "group_size": 4}
    return made(GRPO, model=model or tiny_model(), reward=reward or LikedShare(), **{**parts(lr), **given, **options})


def fit(stage, rollouts, prompts=8, **options):
    run = trainer(max_steps=rollouts, max_epochs=-1, **options)
    run.fit(stage, loader([prompt_batch(prompts, seed=i) for i in range(rollouts)]))
    return run


def weights(stage):
    return torch.cat([parameter.detach().flatten() for parameter in stage.model.parameters()])


def mean_reward(model):
    batch = prompt_batch(128, seed=123)
    rollout = generate(model, (batch.input_ids, batch.lengths), max_new_tokens=8, end_ids=(END,), seed=123)
    return LikedShare().score_tokens(rollout.input_ids, rollout.lengths).mean().item()


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": "group", "aggregation": "sequence_mean", "minibatches": 2, "epochs": 2},
     {"scale": "batch", "aggregation": "constant", "kl_coef": 0.01, "precision": "bf16-mixed"}],
)  # fmt: skip
def test_it_raises_a_reward_from_a_random_policy(options):
    precision = options.pop("precision", "32-true")
    stage = grpo(lr=6e-3, **options)
    before = mean_reward(stage.model)
    fit(stage, 15, prompts=16, precision=precision)
    assert before < 0.1 and mean_reward(stage.model) > before + 0.2


class ByPrompt(LikedShare):
    """The prompts' lengths: other rewards for other prompts, one for all answers of a group."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def score_tokens(self, input_ids, lengths):  # noqa: ARG002
        return (torch.arange(len(lengths)) // self.size).float()


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (
            Constant(0.0),
            "all answers have the same reward (0): raise stage.group_size or stage.temperature, give easier",
        ),
        (ByPrompt(4), "the answers to one prompt have the same reward: raise stage.group_size"),
        (Constant(1.0), "all are right: give harder prompts"),
        (Constant(math.nan), "none of the answers could be verified: look at the reward"),
    ],
)
def test_rollouts_without_any_spread_are_said_with_what_to_change(reward, said, caplog):
    fit(grpo(reward=reward), 10)
    found = [record.getMessage() for record in caplog.records if "no group of answers" in record.getMessage()]
    assert len(found) == 2 and all(said in line for line in found)  # the first and the tenth
    assert found[0].startswith("rollout 0: no group of answers has a spread of rewards: every advantage is 0")
    assert found[1].endswith("(the 10th such rollout)")


def test_answers_that_are_mostly_cut_are_said_with_what_to_change(caplog):
    fit(grpo(max_new_tokens=4, end_ids=(0,)), 1)
    (found,) = [record.getMessage() for record in caplog.records if "cut" in record.getMessage()]
    assert found.startswith("rollout 0: ") and found.endswith(
        "% of the answers were cut at stage.max_new_tokens=4 and judged unfinished: raise it (stage.max_new_tokens=8), "
        "or fine-tune on answers of that length first"
    )


@pytest.mark.parametrize(("room", "remedy"), [(30, "stage.max_new_tokens=30"), (24, "shorten the prompts")])
def test_no_longer_answer_is_advised_than_the_context_has_room_for(room, remedy, caplog):
    RolloutWarnings(24, room).tell({"objective/truncated": 0.75}, 3)
    (found,) = [record.getMessage() for record in caplog.records]
    assert found.startswith("rollout 3: 75% of the answers were cut") and remedy in found


def test_a_rollout_that_teaches_is_not_complained_of(caplog):
    fit(grpo(max_new_tokens=24, end_ids=tuple(range(0, VOCABULARY, 2))), 2)
    assert not [record for record in caplog.records if record.getMessage().startswith("rollout")]


def test_the_first_rollout_starts_at_kl_0_and_ratio_1_even_with_dropout_in_the_model():
    logged = fit(grpo(model=tiny_model(dropout=0.3), lr=1e-30), 1).logged_metrics
    assert logged["objective/kl"].item() == 0 and logged["policy/ratio"].item() == pytest.approx(1, abs=1e-6)
    assert logged["policy/approx_kl"].item() == pytest.approx(0, abs=1e-12)  # without gradients it may round otherwise
    assert logged["policy/clip_low"].item() == 0
    assert logged["policy/clip_high"].item() == 0 and logged["policy/sampling_gap"].item() < 1e-4
    assert logged["policy/entropy"].item() == pytest.approx(math.log(VOCABULARY), abs=0.05)


def test_every_name_is_logged_each_part_of_a_reward_too():
    reward = WeightedSum(parts={"liked": {"reward": LikedShare()}, "half": {"reward": Constant(0.5), "weight": 2.0}})
    logged = fit(grpo(reward=reward, success_at=1.05), 1).logged_metrics
    objective = {"kl", "scores", "scores_std", "unverified", "zero_std_groups", "response_length", "eos_rate"}
    objective |= {"truncated", "liked", "half", "pass@1", "pass@2", "pass@4"}
    policy = {"entropy", "clip_low", "clip_high", "approx_kl", "ratio", "grad_norm", "sampling_gap"}
    names = {f"objective/{name}" for name in objective} | {f"policy/{name}" for name in policy}
    assert names | {"train/loss", "train/lr", "train/updates"} <= set(logged)
    assert logged["objective/half"] == 0.5
    assert logged["objective/scores"].item() == pytest.approx(logged["objective/liked"].item() + 1, abs=1e-6)
    assert logged["objective/pass@1"] <= logged["objective/pass@2"] <= logged["objective/pass@4"]


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_one_update_is_the_gradient_of_the_formula_for_one_row_at_a_time(aggregation):
    """Written out again from the tokens that the reward was shown: plain softmax, lists, one row, no padding."""
    reward, model = LikedShare(), tiny_model()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    plain = {"optimizer": lambda module: torch.optim.SGD(module.parameters(), lr=1.0), "schedule": constant}
    options = GRPOOptions(
        max_new_tokens=8, end_ids=(END,), group_size=4, aggregation=aggregation, max_grad_norm=0.0, micro_batch_size=3
    )
    stage = GRPO(options, model=model, reward=reward, **plain)
    fit(stage, 1, prompts=3)
    ids, lengths = reward.seen[0]
    prompts = prompt_batch(3).lengths.repeat_interleave(4).tolist()
    scores = LikedShare().score_tokens(ids, lengths).tolist()
    fresh = tiny_model()
    fresh.load_state_dict(start)
    answers = []
    for row, end, begin in zip(ids, lengths.tolist(), prompts, strict=True):
        logps = fresh.logits(fresh(row[None, :end]))[0].log_softmax(-1)
        answers.append([logps[t - 1, row[t]] for t in range(begin, end)])
    total, longest = sum(map(len, answers)), 8
    loss = torch.zeros(())
    for b, answer in enumerate(answers):
        group = scores[b // 4 * 4 : b // 4 * 4 + 4]
        advantage = scores[b] - sum(group) / 4
        share = {"token_mean": total, "sequence_mean": len(answer) * 12, "constant": 12 * longest}[aggregation]
        loss = loss - sum((logp - logp.detach()).exp() for logp in answer) * advantage / share
    loss.backward()
    for name, parameter in fresh.named_parameters():
        moved = start[name] - model.state_dict()[name]
        torch.testing.assert_close(moved, parameter.grad, rtol=1e-3, atol=2e-7, msg=name)


@pytest.mark.parametrize("value", [0.1, math.nan])
def test_equal_rewards_and_rewards_that_nothing_verified_change_nothing(value):
    stage = grpo(reward=Constant(value))
    before = weights(stage)
    logged = fit(stage, 2).logged_metrics
    assert torch.equal(weights(stage), before)
    assert logged["objective/zero_std_groups"] == 1 and logged["objective/unverified"] == float(math.isnan(value))


def test_a_rollout_that_teaches_nothing_leaves_the_optimizer_as_it_was():
    """Adam fed with zeros would move on by its momentum, and forget the size of gradients."""

    class Once(LikedShare):
        def score_tokens(self, _, lengths):
            self.seen.append(lengths)
            return torch.arange(len(lengths)) % 2.0 if len(self.seen) == 1 else torch.ones(len(lengths))

    one, three = grpo(reward=Once()), grpo(reward=Once())
    fit(one, 1)
    run = fit(three, 3)
    assert torch.equal(weights(one), weights(three)) and run.global_step == 3
    assert all(state["step"] == 1 for state in run.optimizers[0].state.values())


def test_an_answer_that_was_not_verified_is_out_of_the_means():
    class Some(LikedShare):
        def score_tokens(self, _, lengths):
            return torch.tensor([0.0, math.nan, 1.0, math.nan]).repeat(len(lengths) // 4)

    logged = fit(grpo(reward=Some()), 1).logged_metrics
    assert logged["objective/scores"] == 0.5 and logged["objective/unverified"] == 0.5
    assert logged["objective/zero_std_groups"] == 0 and logged["objective/pass@1"] == 0.25


def test_an_infinite_reward_stops_before_the_update():
    stage = grpo(reward=Constant(math.inf))
    before = weights(stage)
    with pytest.raises(UserError, match="inf for answer 0"):
        fit(stage, 1)
    assert torch.equal(weights(stage), before)


def test_micro_batches_change_memory_not_results():
    def trained(micro):
        stage = grpo(micro_batch_size=micro, minibatches=2, kl_coef=0.1, aggregation="sequence_mean")
        fit(stage, 2)
        return weights(stage)

    torch.testing.assert_close(trained(None), trained(3), rtol=1e-3, atol=1e-4)


def test_answers_without_an_advantage_cost_no_update_and_do_not_change_it():
    """A KL so cheap that it cannot be seen makes every answer take part: the update is the same."""

    class OneGroup(LikedShare):
        def score_tokens(self, _, lengths):
            return torch.tensor([0.0, 1.0, 0.0, 1.0] + [0.5] * (len(lengths) - 4))

    rows, moved = [], []
    for kl_coef in (0.0, 1e-30):
        plain = {"optimizer": lambda module: torch.optim.SGD(module.parameters(), lr=1.0), "max_grad_norm": 0.0}
        stage = grpo(reward=OneGroup(), kl_coef=kl_coef, **plain)
        start, parts = weights(stage), stage.updater.parts
        stage.updater.parts = lambda share, parts=parts: (rows.append(len(share)), parts(share))[1]
        fit(stage, 1)
        moved.append(weights(stage) - start)
    assert rows == [32, 4, 32, 32]  # each time to score, and to learn
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("place", ["loss", "reward"])
def test_a_dear_kl_holds_the_policy_back_wherever_it_is_paid(place):
    kl = {}
    for coef in (0.0, 1.0):
        stage = grpo(kl_coef=coef, kl_in=place, epochs=2, lr=6e-3)
        kl[coef] = fit(stage, 8, prompts=16).logged_metrics["objective/kl"].item()
    assert kl[0.0] > 0.5 and kl[1.0] < 0.5 * kl[0.0]


def test_a_cut_answer_is_not_learned_from_when_it_is_masked():
    """With one token an answer only ends or is cut; ended ones alone are left to be learned from."""
    seen = []
    stage = grpo(mask_truncated=True, max_new_tokens=1)
    whole = stage.gradients
    stage.gradients = lambda *given: (seen.append(given), whole(*given))[1]
    run = fit(stage, 1, prompts=32)
    sequences, experience, *_ = seen[0]
    assert experience.learned[:, 0].tolist() == [answer[-1] == END for _, answer in sequences.rows]
    truncated = 1 - experience.learned.float().mean().item()
    assert run.logged_metrics["objective/truncated"].item() == pytest.approx(truncated)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_rollout_whose_answers_are_all_masked_leaves_no_gradient(kl_coef):
    stage = grpo(mask_truncated=True, kl_coef=kl_coef)
    sample = stage.sampler.sample
    stage.sampler.sample = lambda *given: sample(*given)._replace(finished=torch.zeros(32, dtype=torch.bool))
    run = fit(stage, 1)
    assert run.logged_metrics["objective/zero_std_groups"] < 1 and not run.optimizers[0].state


def test_a_stopped_run_goes_on_bitwise(tmp_path):
    def run(steps, resume=None):
        stage = grpo(epochs=2, minibatches=2, scale="batch", kl_coef=0.05)
        engine = trainer(max_steps=steps, max_epochs=-1)
        batches = [prompt_batch(6, seed=i) for i in range(4)]
        batches = batches if resume is None else batches[2:] + batches[:2]  # the place in the data is the loader's care
        engine.fit(stage, loader(batches), ckpt_path=resume, weights_only=True)
        return stage, engine

    whole, _ = run(4)
    _, engine = run(2)
    engine.save_checkpoint(tmp_path / "half.ckpt")
    again, engine = run(4, resume=tmp_path / "half.ckpt")
    assert engine.global_step == 4 and {key.split(".")[0] for key in whole.state_dict()} == {"model"}
    for (name, one), two in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_a_run_that_had_done_its_rollouts_does_no_more_when_it_is_resumed(tmp_path):
    def run(resume=None):
        stage, engine = grpo(), trainer(max_steps=-1, max_epochs=-1, callbacks=[StopAfter(2)])
        engine.fit(stage, loader([prompt_batch(4, seed=i) for i in range(4)]), ckpt_path=resume, weights_only=True)
        return stage, engine

    first, engine = run()
    engine.save_checkpoint(tmp_path / "all.ckpt")
    again, engine = run(tmp_path / "all.ckpt")
    assert engine.global_step == 2 and torch.equal(weights(first), weights(again))


def test_adapters_need_no_second_copy_as_reference():
    stage = grpo(lora_rank=4, lr=3e-2)
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    logged = fit(stage, 3).logged_metrics
    changed = {name for name, value in stage.model.state_dict().items() if not torch.equal(value, before[name])}
    assert stage.reference is None and changed and all("lora" in name for name in changed)
    assert logged["objective/kl"].abs() > 0


class Words:
    """A tokenizer of numbers."""

    end_ids, pad_id = (END,), 0

    def decode(self, ids):
        return " ".join(map(str, ids))


class Data(L.LightningDataModule):
    """Four prompts with answers; every batch of the loader names them by their numbers."""

    def __init__(self, tag="answer"):
        super().__init__()
        self.options = DataOptions(micro_batch_size=4)
        self.prompts = [Prompt((Message("user", f"what is {i}?"),), f"f:{i}", {tag: str(i)}) for i in range(4)]

    def train_dataloader(self):
        return loader([prompt_batch(4)])


def test_a_group_is_the_answers_to_one_prompt_and_the_reward_reads_its_tags():
    seen = []

    class Recorder:
        row_fields = True

        def __call__(self, prompts, completions, *, rows):
            seen.append(([prompt[0].content for prompt in prompts], list(rows)))
            return [0.0] * len(completions)

    trainer(max_steps=1, max_epochs=-1).fit(grpo(reward=Recorder(), tokenizer=Words()), datamodule=Data())
    prompts, rows = seen[0]
    assert prompts == [f"what is {i}?" for i in range(4) for _ in range(4)]
    assert rows == [{"answer": str(i)} for i in range(4) for _ in range(4)]


def test_prompts_that_cannot_be_verified_are_an_error_before_any_step(caplog):
    def start(data):
        stage = grpo(reward=ExactAnswer(), tokenizer=Words())
        trainer(max_steps=1, max_epochs=-1).fit(stage, datamodule=data)

    with pytest.raises(UserError, match=r"reward.tag=answer: none of the 4 prompts has it \(f:0 has gold\)"):
        start(Data("gold"))
    some = Data()
    some.prompts[2].tags.clear()
    start(some)
    assert "1 of 4 prompts cannot be verified; the first: f:2" in caplog.text


def test_minibatches_that_do_not_share_out_the_rollout_are_an_error_before_any_step():
    stage = grpo(minibatches=3)
    with pytest.raises(UserError, match="minibatches: 3; must divide the rollout's 16 answers"):
        trainer(max_steps=1, max_epochs=-1).fit(stage, datamodule=Data())


def test_validation_tells_success_with_its_error_over_prompts():
    class Ends(LikedShare):
        """Right where the answer ends at once."""

        def score_tokens(self, input_ids, lengths):
            self.seen.append((input_ids[torch.arange(len(lengths)), lengths - 1] == END).float())
            return self.seen[-1]

    reward = Ends()
    stage, run = grpo(reward=reward, validation_samples=4, lr=1e-30, max_new_tokens=12), trainer()
    found = run.validate(stage, loader([prompt_batch(8, seed=3), prompt_batch(6, seed=4)]), verbose=False)[0]
    right = torch.cat(reward.seen).view(14, 4)
    share = right.mean(1)
    assert 0 < share.mean() < 1
    assert found["val/set0/success"] == pytest.approx(share.mean().item())
    assert found["val/set0/success_se"] == pytest.approx(share.std().item() / 14**0.5, rel=1e-4)
    assert found["val/set0/pass@4"] == pytest.approx(right.any(1).float().mean().item())
    assert "val/set0/success_squares" not in found and found["val/set0/kl"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1}, "group_size: 1; must be 2 or more"),
        ({"scale": "std"}, "scale: std; must be one of none, group, batch"),
        ({"aggregation": "mean"}, "aggregation: mean; must be one of token_mean"),
        ({"kl_in": "both"}, "kl_in: both; must be one of loss, reward"),
        ({"kl_coef": -0.1}, "kl_coef: -0.1"),
        ({"eps_low": 0.0}, "eps_low: 0.0"),
        ({"eps_low": 1.0}, "eps_low: 1.0; must be below 1"),
        ({"eps_high": -1.0}, "eps_high: -1.0"),
        ({"validation_samples": 0}, "validation_samples: 0"),
        ({"epochs": 0}, "epochs"),
        ({"reward": lambda *_: [0.0]}, "no tokenizer"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_stage_is_made(options, message):
    with pytest.raises(UserError, match=message):
        grpo(**options)
