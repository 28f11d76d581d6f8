"""The reward model: what it learns, what it logs, what it refuses."""

from functools import partial

import numpy as np
import pytest
import torch

from lit_llm.backbone.models import ScoreModel
from lit_llm.data.ranking_rows import ranking_batch
from lit_llm.errors import UserError
from lit_llm.evaluation.statistics import expected_calibration_error
from lit_llm.objectives.ranking import bradley_terry, plackett_luce, strict_pairs
from lit_llm.stages.metric_sums import MetricSums
from lit_llm.stages.options import RewardModelingOptions
from lit_llm.stages.ranking_metrics import derived, judged_pairs, pair_sums, ranking_summary
from lit_llm.stages.reward_modeling import RewardModeling

from .toy import VOCABULARY, loader, padded, parts, rankings, remade, tiny_model, tokens_once, trainer


def held_out_accuracy(model: ScoreModel, seed: int = 99) -> float:
    batch = rankings(80, seed=seed)
    with torch.no_grad():
        scores = model(*padded(batch.completions)[:2])
    winners, losers = strict_pairs(batch.groups, batch.ranks)
    return (scores[winners] > scores[losers]).float().mean().item()


@pytest.mark.parametrize("loss", [bradley_terry, plackett_luce, partial(bradley_terry, centering=0.01)])
def test_it_learns_a_rule_on_held_out_prompts(loss):
    stage = RewardModeling(model=tiny_model(), loss=loss, **parts())
    before = held_out_accuracy(stage.model)
    batches = [rankings(16, seed=i) for i in range(40)]
    trainer(max_epochs=1).fit(stage, loader(batches), loader([rankings(30, seed=77)]))
    after = held_out_accuracy(stage.model)
    assert before < 0.7 and after > 0.9


def test_scores_are_normalised_once_on_the_training_completions():
    stage = RewardModeling(RewardModelingOptions(normalize_batches=3), model=tiny_model(), **parts())
    batches = [rankings(8, seed=i) for i in range(3)]
    trainer(max_epochs=1).fit(stage, loader(batches))
    with torch.no_grad():
        scores = torch.cat([stage.model.eval()(*padded(b.completions)[:2]) for b in batches])
    assert scores.mean().item() == pytest.approx(0, abs=1e-5) and scores.std().item() == pytest.approx(1, rel=1e-4)


def test_without_a_gain_only_the_mean_is_taken_away():
    stage = RewardModeling(
        RewardModelingOptions(normalize_batches=2, normalize_scale=False), model=tiny_model(), **parts()
    )
    batches = [rankings(8, seed=i) for i in range(2)]
    trainer(max_epochs=1).fit(stage, loader(batches))
    with torch.no_grad():
        scores = torch.cat([stage.model.eval()(*padded(b.completions)[:2]) for b in batches])
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert stage.model.reward_std.item() == 1.0 != pytest.approx(scores.std().item(), rel=1e-2)


def test_a_model_whose_scores_are_not_finite_is_not_saved_as_one():
    stage = RewardModeling(RewardModelingOptions(normalize_batches=1), model=tiny_model(), **parts())
    with torch.no_grad():
        stage.model.score.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="reward model: its scores have mean nan and deviation nan"):
        trainer(max_epochs=1).fit(stage, loader([rankings(4)]))


def test_a_finished_run_that_is_resumed_has_its_normalisation(tmp_path):
    """Killed between its last checkpoint and its end: no step is left to make, so training does not end again."""

    def fitted(checkpoint=None):
        stage = RewardModeling(RewardModelingOptions(normalize_batches=3), model=tiny_model(), **parts())
        run = trainer(max_epochs=1)
        run.fit(stage, loader([rankings(8, seed=i) for i in range(3)]), ckpt_path=checkpoint, weights_only=True)
        return stage, run

    whole, run = fitted()
    mean, std = whole.model.reward_mean.item(), whole.model.reward_std.item()
    whole._set_normalization(0.0, 1.0)  # as in a checkpoint written at the last step
    run.save_checkpoint(tmp_path / "last.ckpt")
    again, _ = fitted(tmp_path / "last.ckpt")
    assert (mean, std) != (0.0, 1.0)
    assert again.model.reward_mean.item() == pytest.approx(mean, abs=1e-6)
    assert again.model.reward_std.item() == pytest.approx(std, rel=1e-5)


def test_each_prompt_and_completion_is_run_once_not_once_a_pair():
    stage, rows = RewardModeling(model=tiny_model(), **parts()), []
    stage.model.backbone.register_forward_pre_hook(lambda _, args: rows.append(args[0].numel()))
    batch = rankings(5, k=4)
    stage.loss(batch)
    assert rows == [tokens_once(batch)]


def test_accumulation_gives_the_gradient_of_one_large_batch():
    def trained(batches, accumulate):
        stage = RewardModeling(RewardModelingOptions(normalize_batches=0), model=tiny_model(), **parts())
        torch.manual_seed(5)
        torch.nn.init.normal_(stage.model.score.weight)
        trainer(max_epochs=1, accumulate_grad_batches=accumulate).fit(stage, loader(batches))
        return stage.model.state_dict()

    a, b = rankings(5, seed=1, tokens=6), rankings(2, seed=2, tokens=6)
    whole = ranking_batch(
        [*a.completions.rows, *b.completions.rows],
        torch.cat([a.groups, b.groups + 5]),
        torch.cat([a.ranks, b.ranks]),
        torch.ones(7),
    )
    for one, two in zip(trained([a, b], 2).values(), trained([whole], 1).values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=2e-5)


def test_logged_names_and_the_floor():
    stage = RewardModeling(model=tiny_model(), **parts())
    run = trainer(max_epochs=1)
    run.fit(stage, loader([rankings(8)]), loader([rankings(20, seed=7)]))
    training = {"loss", "accuracy", "margin", "nll", "brier", "ece", "reward", "reward_std", "length_correlation"}
    training |= {"grad_norm", "lr"}
    assert training <= {name.removeprefix("train/") for name in run.logged_metrics if name.startswith("train/")}
    extra = {"shorter_wins", "longer_wins", "reward_min", "reward_max"}
    found = {name.split("/", 2)[2] for name in run.logged_metrics if name.startswith("val/set0/")}
    assert training - {"grad_norm", "lr"} | extra <= found


def scored(scores, ranks, groups, lengths, annotators=None, numbers=None):
    """A batch of one-token prompts whose completions have these lengths, and scores for it."""
    numbers = range(len(scores)) if numbers is None else numbers
    rows = [(np.array([6]), np.full(n, 6 + k)) for k, n in zip(numbers, lengths, strict=True)]
    batch = ranking_batch(rows, groups, ranks, [1.0] * (max(groups) + 1), annotators=annotators)
    return torch.tensor(scores), batch


def test_the_sums_of_two_batches_give_the_measures_of_all_pairs_by_hand():
    one = scored([2.0, 1.0, -1.0], [1, 2, 3], [0, 0, 0], [3, 2, 1])
    two = scored([0.5, 0.9], [1, 2], [0, 0], [2, 4])
    totals = MetricSums()
    for scores, batch in (one, two):
        totals.add(torch.tensor(1.0), torch.tensor(1), pair_sums(scores, batch.completions.sizes, batch.pairs))
    values = derived(totals.reduced())
    margins = np.array([1.0, 3.0, 2.0, -0.4])
    p = 1 / (1 + np.exp(-margins))
    assert values["accuracy"] == 0.75 and values["margin"] == pytest.approx(margins.mean(), rel=1e-6)
    assert values["nll"] == pytest.approx(-np.log(p).mean(), rel=1e-6)
    assert values["brier"] == pytest.approx(((1 - p) ** 2).mean(), rel=1e-5)
    expected = expected_calibration_error([*p, *(1 - p)], [1, 1, 1, 1, 0, 0, 0, 0])
    assert values["ece"] == pytest.approx(expected, rel=1e-5) and expected > 0.1
    every, sizes = np.array([2.0, 1.0, -1.0, 0.5, 0.9]), np.array([3, 2, 1, 2, 4])
    assert values["length_correlation"] == pytest.approx(np.corrcoef(every, sizes)[0, 1], rel=1e-5)
    assert (values["reward"], values["reward_std"]) == pytest.approx((every.mean(), every.std()), rel=1e-5)


def test_the_summary_by_hand():
    """The pair 0-1 is ordered alike by both annotators, the others not; the scores follow annotator 0."""
    scores, batch = scored(
        [2.0, 1.0, -1.0] * 2, [1, 2, 3, 1, 3, 2], [0, 0, 0, 1, 1, 1], [3, 1, 1] * 2, [0, 1], [0, 1, 2] * 2
    )
    values = ranking_summary(scores, *judged_pairs(scores, batch))
    # strict pairs, winner - loser in length: 2, 2, 0 and 2, 2, 0
    assert (values["shorter_wins"], values["longer_wins"]) == pytest.approx((1 / 6, 5 / 6))
    assert (values["reward_min"], values["reward_max"]) == (-1.0, 2.0)
    assert (values["accuracy_agreed"], values["accuracy_disputed"]) == (1.0, 0.5)
    alone = ranking_summary(scores, *judged_pairs(scores, batch._replace(annotators=None)))
    assert "accuracy_agreed" not in alone  # who ranked is not known, so nobody agrees with anybody


GOOD = rankings(2, k=2)
(FIRST, *OTHERS), NOTHING = GOOD.completions.rows, np.zeros(0, dtype=np.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [(FIRST[0], NOTHING), *OTHERS]}, "has no token"),
        ({"ranks": [1, 3, 1, 2]}, "rank 3; must be 1 to 2"),
        ({"ranks": [0, 1, 1, 2]}, "rank 0"),
        ({"groups": [0, 0, 0, 1]}, "1 completion; give 2 or more"),
        ({"rows": [FIRST, FIRST, *OTHERS[1:]]}, "given twice"),
        ({"rows": [(FIRST[0] + 1, FIRST[1]), *OTHERS]}, "two prompts"),
        ({"weights": [1.0, float("nan")]}, "weight nan"),
        ({"weights": [1.0, -1.0]}, "prompt 1 of the batch has weight -1.0; must be 0 or more"),
        ({"margins": [-0.5, 0.0]}, "prompt 0 of the batch has margin -0.5; must be 0 or more"),
        ({"margins": [0.0] * 3}, "3 margins for 2 prompts"),
        ({"annotators": [0]}, "1 annotators for 2 prompts"),
        ({"rows": [(NOTHING, FIRST[1]), *OTHERS]}, "the prompt of completion 0 of the batch has no token"),
    ],
)
def test_what_is_no_ranking_is_refused_when_a_batch_is_made(changes, message):
    with pytest.raises(UserError, match=message):
        remade(GOOD, **changes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(prompt, answer + VOCABULARY) for prompt, answer in GOOD.completions.rows], f"vocabulary has {VOCABULARY}"),
        ([(prompt, np.append(np.full(60, 7), answer)) for prompt, answer in GOOD.completions.rows], "reads up to 64"),
    ],
)
def test_what_the_model_cannot_read_is_refused_before_the_first_step(rows, message):
    stage = RewardModeling(model=tiny_model(), **parts())
    weights = {name: value.clone() for name, value in stage.state_dict().items()}
    with pytest.raises(UserError, match=message):
        trainer(max_epochs=1).fit(stage, loader([remade(GOOD, rows=rows)]))
    assert all(torch.equal(value, weights[name]) for name, value in stage.state_dict().items())
