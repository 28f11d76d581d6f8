"""DPO: the margin starts at 0 and grows on held-out pairs; the reference stays, and stays out of checkpoints."""

import math
from contextlib import nullcontext
from functools import partial

import pytest
import torch

from lit_llm.errors import UserError
from lit_llm.objectives.language import token_logps
from lit_llm.objectives.preference import dpo, hinge, ipo, orpo, robust_dpo, simpo
from lit_llm.objectives.ranking import strict_pairs
from lit_llm.stages.preference_optimization import PreferenceOptimization
from tests.padded_rows import completion_labels

from .toy import loader, padded, parts, rankings, remade, tiny_model, tokens_once, trainer


def held_out_accuracy(stage: PreferenceOptimization, seed: int = 99) -> float:
    """Share of pairs whose implicit reward orders them as the ranking does."""
    batch = rankings(80, seed=seed)
    ids, lengths, prompts = padded(batch.completions)
    labels = completion_labels(ids, prompts, lengths)
    policy, reference = (
        token_logps(net(ids), net.output_weight, labels).sum(1).detach() for net in (stage.model, tiny_model())
    )
    rewards = policy - reference
    winners, losers = strict_pairs(batch.groups, batch.ranks)
    return (rewards[winners] > rewards[losers]).float().mean().item()


@pytest.mark.parametrize("loss", [dpo, robust_dpo, hinge, partial(ipo, beta=1.0), partial(orpo, lambda_=1.0), simpo])
def test_every_loss_learns_a_rule_on_held_out_prompts(loss):
    stage = PreferenceOptimization(model=tiny_model(), loss=loss, **parts(lr=2e-3))
    trainer(max_epochs=1).fit(stage, loader([rankings(12, seed=i) for i in range(25)]))
    assert held_out_accuracy(stage) > 0.85


def test_it_starts_at_margin_zero_and_a_loss_of_ln_2():
    stage = PreferenceOptimization(model=tiny_model(dropout=0.3), **parts())
    run = trainer(max_steps=1, max_epochs=1)
    run.fit(stage, loader([rankings(8)]))
    logged = run.logged_metrics
    assert logged["train/loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert logged["rewards/margins"].item() == pytest.approx(0, abs=1e-6)
    assert logged["rewards/chosen"].item() == pytest.approx(0, abs=1e-6)


def test_it_learns_with_all_weights_in_bfloat16():
    stage = PreferenceOptimization(model=tiny_model(), **parts(lr=2e-3))
    trainer(max_steps=20, max_epochs=1, precision="bf16-true").fit(
        stage, loader([rankings(12, seed=i) for i in range(20)])
    )
    assert {weight.dtype for weight in stage.model.parameters()} == {torch.bfloat16}
    stage.model.float()
    assert held_out_accuracy(stage) > 0.6


def test_logged_names():
    stage = PreferenceOptimization(model=tiny_model(), **parts())
    run = trainer(max_epochs=1)
    run.fit(stage, loader([rankings(8), rankings(8, seed=1)]), loader([rankings(8, seed=2)]))
    names = {f"rewards/{x}" for x in ("chosen", "rejected", "accuracies", "margins")} | {
        "logps/chosen",
        "logps/rejected",
    }
    assert names | {"train/nll"} <= set(run.logged_metrics)
    assert {f"val/set0/{name}" for name in names | {"nll", "loss"}} <= set(run.logged_metrics)


def test_logged_values_are_those_of_a_loop():
    stage, batch = PreferenceOptimization(model=tiny_model(), loss=partial(dpo, beta=0.5), **parts()), rankings(4)
    with torch.no_grad():
        for parameter in stage.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    stage._checked = True
    total, count, sums = stage.loss(batch)

    ids, lengths, prompts = padded(batch.completions)

    def logp(net, row):
        logits = net.logits(net(ids[row : row + 1, : lengths[row]]))[0].double().log_softmax(-1)
        places = range(int(prompts[row]) - 1, int(lengths[row]) - 1)
        return sum(logits[t, ids[row, t + 1]].item() for t in places)

    rewards = [0.5 * (logp(stage.model, i) - logp(tiny_model(), i)) for i in range(12)]
    expected = prompts = pairs = margins = 0.0
    for prompt in range(4):
        losses = []
        for i in range(3 * prompt, 3 * prompt + 3):
            for j in range(3 * prompt, 3 * prompt + 3):
                if batch.ranks[i] < batch.ranks[j]:
                    losses.append(math.log1p(math.exp(rewards[j] - rewards[i])))
                    pairs, margins = pairs + 1, margins + rewards[i] - rewards[j]
        if losses:
            expected, prompts = expected + sum(losses) / len(losses), prompts + 1
    assert (total.item(), count.item()) == pytest.approx((expected, prompts), rel=1e-4)
    assert (float(sums["pairs"]), float(sums["rewards/margins"])) == pytest.approx((pairs, margins), rel=1e-3)


def test_the_reference_runs_once_over_all_data_and_is_never_trained_or_saved():
    stage, runs = PreferenceOptimization(model=tiny_model(), **parts()), []
    stage.reference.backbone.register_forward_pre_hook(lambda _, args: runs.append(args[0].numel()))
    before = {name: value.clone() for name, value in stage.reference.state_dict().items()}
    batches = [rankings(6), rankings(6, seed=1)]
    trainer(max_epochs=3).fit(stage, loader(batches))
    assert runs == [tokens_once(batch) for batch in batches]
    assert all(torch.equal(value, before[name]) for name, value in stage.reference.state_dict().items())
    assert not any(key.startswith("reference") for key in stage.state_dict())
    assert any(not torch.equal(v, before[k]) for k, v in stage.model.state_dict().items())


def test_margins_of_the_data_are_offsets_of_dpo_and_refused_by_other_losses():
    stage, batch = PreferenceOptimization(model=tiny_model(), loss=partial(dpo, beta=0.5), **parts()), rankings(4)
    margins = torch.tensor([0.0, 1.0, 0.5, 2.0])
    stage._checked = True
    expected, _, _ = stage.loss(batch)
    # Policy and reference are one, D = 0: each prompt that counts has -log sigmoid(-margin).
    counted = torch.tensor([len(set(batch.ranks[batch.groups == n].tolist())) > 1 for n in range(4)])
    assert expected.item() == pytest.approx(counted.sum().item() * math.log(2), rel=1e-5)
    by_hand = (counted * torch.log1p(margins.exp())).sum().item()
    assert stage.loss(remade(batch, margins=margins))[0].item() == pytest.approx(by_hand, rel=1e-5)
    other = PreferenceOptimization(model=tiny_model(), loss=ipo, **parts())
    other._checked = True
    other.loss(remade(batch, margins=torch.zeros(4)))
    with pytest.raises(UserError, match="loss: ipo takes no margins and the data has some"):
        other.loss(remade(batch, margins=margins))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
@pytest.mark.parametrize(("change", "refused"), [(1.0, ()), (1.03, ("32-true", "64-true")), (1 + 1e-5, ("64-true",))])
def test_how_far_the_reference_may_be_off_depends_on_the_precision(precision, change, refused):
    stage = PreferenceOptimization(model=tiny_model(), **parts())
    with torch.no_grad():
        stage.reference.lm_head.weight.mul_(change)
    with pytest.raises(UserError, match="before the first") if precision in refused else nullcontext():
        trainer(max_epochs=1, precision=precision).fit(stage, loader([rankings(4)]))


@pytest.mark.parametrize("loss", [orpo, simpo])
def test_losses_without_reference_keep_none(loss):
    assert PreferenceOptimization(model=tiny_model(), loss=loss, **parts()).reference is None


def test_a_reference_that_is_another_model_is_refused():
    stage = PreferenceOptimization(model=tiny_model(), **parts())
    stage.reference.load_state_dict(tiny_model(seed=1).state_dict())
    with torch.no_grad():
        stage.reference.lm_head.weight.mul_(30)
    with pytest.raises(UserError, match="before the first update"):
        trainer(max_epochs=1).fit(stage, loader([rankings(4)]))


@pytest.mark.parametrize("loss", [partial(dpo, beta=0), partial(robust_dpo, label_smoothing=0.5)])
def test_impossible_options_are_refused_when_the_stage_is_made(loss):
    with pytest.raises(UserError, match=r"loss\."):
        PreferenceOptimization(model=tiny_model(), loss=loss, **parts())
