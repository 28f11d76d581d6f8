"""What every stage that learns from its own answers checks before the first step, logs and validates."""

import dataclasses
import math

import lightning as L
import pytest
import torch

from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.data.options import DataOptions
from lit_llm.errors import UserError
from lit_llm.rewards.weighted import WeightedSum
from lit_llm.stages import sampler

from .test_ppo import LikedShare, fit, ppo
from .toy import loader, prompt_batch, tiny_model, trainer


@pytest.mark.parametrize(("precision", "told"), [("32-true", True), ("bf16-mixed", False)])
def test_a_slightly_other_reference_is_noticed_where_the_precision_lets_it_be(precision, told):
    stage = ppo()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = stage.reference.lm_head.weight
        weight.add_(0.005 * torch.randn(weight.shape, generator=g))
    if not told:
        fit(stage, 1, precision=precision)
        return
    with pytest.raises(UserError, match="policy and reference differ"):
        fit(stage, 1, precision=precision)


def test_a_part_of_a_reward_is_logged_where_it_is_kept_as_a_list():
    class Parted(LikedShare):
        def score_tokens(self, input_ids, lengths):
            self.latest = {"exact": [1.0, float("nan")] * (len(lengths) // 2)}
            return super().score_tokens(input_ids, lengths)

    assert fit(ppo(reward=Parted()), 1).logged_metrics["objective/exact"] == 1


def test_validation_reads_the_answers_in_micro_batches(monkeypatch):
    seen = []
    for name in ("logps_and_entropy", "completion_logps"):
        read = getattr(sampler, name)
        monkeypatch.setattr(sampler, name, lambda *args, read=read: (seen.append(len(args[1].rows)), read(*args))[1])
    found = []
    for size in (3, None):
        run = trainer()
        found += run.validate(ppo(micro_batch_size=size), loader([prompt_batch(8, seed=3)]), verbose=False)
    assert seen == [3, 3, 3, 3, 2, 2, 8, 8]  # by policy and reference each
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gold_reward_that_is_no_number_is_an_error(value):
    class Bad(LikedShare):
        def score_tokens(self, _, lengths):
            return torch.full(lengths.shape, value)

    with pytest.raises(UserError, match=r"gold: (nan|inf) for answer 0"):
        trainer().validate(ppo(gold=Bad()), loader([prompt_batch(4)]), verbose=False)


class Sized(L.LightningDataModule):
    """What a data module says of its prompts."""

    def __init__(self, micro_batch_size, longest_prompt):
        super().__init__()
        self.options, self.longest_prompt = DataOptions(micro_batch_size=micro_batch_size), longest_prompt

    def train_dataloader(self):
        return loader([prompt_batch(self.options.micro_batch_size)])


def test_minibatches_that_do_not_share_out_the_rollout_are_an_error_before_any_step():
    with pytest.raises(
        UserError, match=r"minibatches: 3; must divide .* 16 answers \(data.micro_batch_size=16 prompts\)"
    ):
        trainer(max_steps=1, max_epochs=-1).fit(ppo(minibatches=3), datamodule=Sized(16, 5))


def test_a_short_rollout_has_as_many_updates_as_the_process_with_the_fewest_rows_can_make():
    stage = ppo(minibatches=4)
    seen = []
    stage.updater.most_of_processes = lambda value: (seen.append(int(value)), torch.tensor(-2))[
        1
    ]  # another process has two
    assert [len(share) for share in stage.updater.shares(3, torch.Generator().manual_seed(0))] == [2, 1] and seen == [
        -3
    ]


def test_a_reward_model_too_short_for_the_longest_answer_is_refused_before_any_step():
    class Learned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            short = LanguageModel(dataclasses.replace(tiny_model().config, max_positions=16))
            self.model = ScoreModel.from_language_model(short)

        def score_tokens(self, input_ids, lengths):
            return self.model(input_ids, lengths)

        def forward(self, *_):
            raise AssertionError

    for given in ({"reward": Learned()}, {"gold": Learned()}):
        name = next(iter(given))
        with pytest.raises(UserError, match=f"{name}: its model reads up to 16 tokens.*longest prompt has 9"):
            trainer(max_steps=1, max_epochs=-1).fit(ppo(**given), datamodule=Sized(16, 9))
    weighted = WeightedSum(parts={"liked": {"reward": LikedShare()}, "model": {"reward": Learned()}})
    with pytest.raises(UserError, match=r"reward\.parts\.model: its model reads up to 16"):
        trainer(max_steps=1, max_epochs=-1).fit(ppo(reward=weighted), datamodule=Sized(16, 9))
    trainer(max_steps=1, max_epochs=-1).fit(ppo(reward=Learned()), datamodule=Sized(16, 5))
