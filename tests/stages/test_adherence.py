"""Adherence of annotators: the estimates of R's PlackettLuce, and a run in which one annotator ranks at random."""

from functools import partial

import lightning as L
import pytest
import torch

from lit_llm.errors import UserError
from lit_llm.objectives.ranking import bradley_terry, plackett_luce
from lit_llm.optim.muon import muon_adamw
from lit_llm.stages.adherence import Adherence
from lit_llm.stages.options import RewardModelingOptions
from lit_llm.stages.reward_modeling import RewardModeling

from .toy import loader, made, padded, parts, rankings, remade, tiny_model, trainer

# Rankings of five items, the best first, some of them partial, by three annotators with eight rankings each.
RANKED = (
    ([0, 1, 2, 4, 3], [2, 0, 4], [0, 4, 2], [2, 3], [0, 2, 3], [2, 4], [0, 4], [0, 1, 2, 3, 4]),
    ([1, 4], [2, 4], [1, 4], [0, 4, 2, 1, 3], [2, 3, 1, 4, 0], [0, 1], [2, 0, 3, 4], [1, 3, 0, 4]),
    ([1, 0, 2, 4], [3, 1, 0, 2, 4], [4, 0, 1, 2, 3], [1, 0, 3], [4, 2, 3], [4, 1, 0, 2, 3], [0, 3], [0, 3]),
)
# What R's PlackettLuce 0.4.5 gives for them: PlackettLuce(group(rankings, annotator), npseudo = 0, normal = list(mu =
# 0, Sigma = 4 I), gamma = list(shape, rate)), its tolerances at 1e-15. It counts the Gamma prior once for each ranking,
# so the prior of one annotator with n = 8 rankings is Gamma(10, 10) once with shape = 1 + 9/n and rate = 10/n there.
IN_R = {
    "one prior for each annotator": (
        (10.0, 10.0),
        [0.930037973229, 1.018452795412, 0.108495472749, -1.231340379936, -0.825645861455],
        [1.200959153454, 0.685591058607, 0.916246816583],
    ),
    "one prior for each ranking, as R counts Gamma(10, 10)": (
        (1.0 + 8 * 9, 80.0),
        [0.826230977572, 0.950683619132, 0.182233389846, -1.143409241536, -0.815738745014],
        [0.944842383826, 0.860898925373, 0.905485216880],
    ),
}


@pytest.mark.parametrize("case", IN_R)
def test_the_posterior_has_its_peak_where_r_finds_it(case):
    (shape, rate), worths, factors = IN_R[case]
    flat = [
        (item, group, rank, who)
        for group, (who, order) in enumerate((w, order) for w, orders in enumerate(RANKED) for order in orders)
        for rank, item in enumerate(order, 1)
    ]
    items, groups, ranks, who = (torch.tensor(column) for column in zip(*flat, strict=True))
    annotators = torch.tensor([w for w, orders in enumerate(RANKED) for _ in orders])
    adherence = Adherence("abc", dict.fromkeys("abc", 8), shape, rate).double()
    worth = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [worth, adherence.log_values],
        max_iter=500,
        tolerance_grad=1e-10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        scores = worth[items] * adherence(who)
        loss, count = plackett_luce(scores, groups, ranks, torch.ones(24, dtype=torch.float64))
        assert count == 24
        whole = loss + adherence.prior(annotators) + worth.square().sum() / 8
        whole.backward()
        return whole

    optimizer.step(closure)
    assert worth.tolist() == pytest.approx(worths, abs=2e-5)
    assert list(adherence.by_name().values()) == pytest.approx(factors, rel=2e-5)


class Ranked(L.LightningDataModule):
    """Three annotators on the same kind of prompts; the last one ranks at random."""

    def __init__(self, annotators=("", "ann", "bob", "coin")):
        super().__init__()
        self.annotators = annotators
        self.training_comparisons_by = dict.fromkeys(("ann", "bob", "coin"), 320)

    def train_dataloader(self):
        batches = []
        for seed in range(40):
            batch = rankings(24, k=3, seed=seed)
            who = torch.arange(24) % 3 + 1
            shuffled = torch.randperm(72, generator=torch.Generator().manual_seed(seed)) % 3 + 1
            ranks = torch.where(who[batch.groups] == 3, shuffled, batch.ranks)
            batches.append(remade(batch, ranks=ranks, annotators=who))
        return loader(batches)


@pytest.mark.parametrize("optimizer", [None, partial(muon_adamw, lr=3e-3, weight_decay=0.0)])
def test_who_ranks_at_random_is_found(optimizer):
    options = parts() | ({} if optimizer is None else {"optimizer": optimizer})
    stage = RewardModeling(RewardModelingOptions(adherence="learned", adherence_lr=0.1), model=tiny_model(), **options)
    run = trainer(max_epochs=1)
    run.fit(stage, datamodule=Ranked())
    found = {name.split("/", 1)[1]: v for name, v in run.logged_metrics.items() if name.startswith("adherence/")}
    assert set(found) == {"unnamed", "ann", "bob", "coin"}
    assert found["coin"] < 0.5 < 1.2 < min(found["ann"], found["bob"])
    assert found["unnamed"] == 1.0  # who did not rank has no say, and no prior to fall to
    assert "adherence.log_values" in stage.state_dict()
    assert not any("adherence" in name for name in stage.exported().state_dict())


def test_the_prior_of_an_annotator_counts_once_an_epoch():
    adherence = Adherence(("a", "b"), {"a": 4, "b": 1}, shape=10.0, rate=10.0)
    with torch.no_grad():
        adherence.log_values.copy_(torch.tensor([0.5, -0.7]))
    by_hand = torch.distributions.Gamma(10.0, 10.0).log_prob(torch.ones(())) - torch.distributions.Gamma(
        10.0, 10.0
    ).log_prob(torch.tensor([0.5, -0.7]).exp())
    epoch = adherence.prior(torch.tensor([0, 0])) + adherence.prior(torch.tensor([0, 1, 0]))
    assert epoch.item() == pytest.approx(by_hand.sum().item(), rel=1e-5)


def test_an_adherence_of_one_changes_nothing():
    stage = RewardModeling(RewardModelingOptions(adherence="learned"), model=tiny_model(), **parts())
    batch = rankings(6)
    without = stage.loss(batch)[0]
    stage.adherence = Adherence("ab", {"a": 3, "b": 3}, 10.0, 10.0)
    with_it = stage.loss(remade(batch, annotators=[0, 1] * 3))[0]
    torch.testing.assert_close(with_it, without)


def test_margins_of_the_data_reach_the_loss_or_are_refused():
    stage, batch = RewardModeling(model=tiny_model(), loss=partial(bradley_terry, margin=0.25), **parts()), rankings(4)
    margins = torch.tensor([0.0, 1.0, 0.5, 2.0])
    scores = stage.model(*padded(batch.completions)[:2])
    expected = bradley_terry(scores, batch.groups, batch.ranks, batch.weights, margins=margins + 0.25)[0]
    torch.testing.assert_close(stage.loss(remade(batch, margins=margins))[0], expected)
    other = RewardModeling(model=tiny_model(), loss=plackett_luce, **parts())
    other.loss(remade(batch, margins=torch.zeros(4)))
    with pytest.raises(UserError, match="loss: plackett_luce takes no margins and the data has some"):
        other.loss(remade(batch, margins=margins))


@pytest.mark.parametrize(
    ("names", "message"),
    [(("", "ann"), "learned, but the data names ann; it compares annotators"), ((), "the data names nobody")],
)
def test_one_annotator_cannot_be_compared(names, message):
    stage = RewardModeling(RewardModelingOptions(adherence="learned"), model=tiny_model(), **parts())
    with pytest.raises(UserError, match=message):
        trainer(max_epochs=1).fit(stage, datamodule=Ranked(names))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adherence": "some"}, "stage.adherence: some; must be none or learned"),
        ({"adherence_shape": 1.0}, "stage.adherence_shape: 1.0; must be above 1"),
        ({"adherence_rate": 0.0}, "stage.adherence_rate: 0.0; must be above 0"),
        ({"adherence_lr": -1.0}, "stage.adherence_lr: -1.0; must be above 0"),
        ({"normalize_batches": -1}, "stage.normalize_batches: -1; must be 0 or more"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        made(RewardModeling, model=tiny_model(), **parts(), **options)


def test_the_factors_go_on_from_a_checkpoint(tmp_path):
    def fitted(epochs, checkpoint=None):
        stage = RewardModeling(
            RewardModelingOptions(adherence="learned", normalize_batches=0), model=tiny_model(), **parts()
        )
        run = trainer(max_epochs=epochs, limit_train_batches=4)
        run.fit(stage, datamodule=Ranked(), ckpt_path=checkpoint, weights_only=True)
        return stage, run

    _, run = fitted(1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    again, whole = fitted(2, tmp_path / "one.ckpt")[0], fitted(2)[0]
    assert again.adherence.by_name() == whole.adherence.by_name() != dict.fromkeys(whole.adherence.by_name(), 1.0)
