"""Attacks among ranked answers: a term of their own, and none of the people's numbers changes by them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lit_llm.errors import UserError
from lit_llm.objectives.ranking import bradley_terry, plackett_luce
from lit_llm.records import RankingBatch
from lit_llm.stages.adherence import Adherence
from lit_llm.stages.attack_pairs import without_attacks
from lit_llm.stages.options import RewardModelingOptions
from lit_llm.stages.reward_modeling import RewardModeling

from .toy import END, loader, padded, parts, rankings, remade, tiny_model, trainer


def attacked(batch: RankingBatch, every: int = 1) -> RankingBatch:
    """Each prompt, or every second one, gets an attack below its other answers: its end token many times."""
    rows, groups, ranks, marks = [], [], [], []
    for group in range(len(batch.weights)):
        mine = (batch.groups == group).nonzero()[:, 0]
        own = [batch.completions.rows[i] for i in mine]
        hit = group % every == 0
        rows += own + [(own[0][0], np.full(9, END))] * hit
        ranks += [*batch.ranks[mine].tolist(), *[int(batch.ranks[mine].max()) + 1] * hit]
        marks += [False] * len(own) + [True] * hit
        groups += [group] * (len(own) + hit)
    return remade(batch, rows=rows, groups=groups, ranks=ranks, attacked=marks)


def test_scores_of_answers_have_mean_0_and_deviation_1_where_every_prompt_has_an_attack():
    stage = RewardModeling(RewardModelingOptions(normalize_batches=6), model=tiny_model(), **parts())
    batches = [rankings(8, seed=i) for i in range(6)]
    trainer(max_epochs=1).fit(stage, loader([attacked(b) for b in batches]))
    with torch.no_grad():
        scores = torch.cat([stage.model.eval()(*padded(b.completions)[:2]) for b in batches])
    assert scores.mean().item() == pytest.approx(0, abs=1e-5) and scores.std().item() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("loss", [bradley_terry, plackett_luce])
@pytest.mark.parametrize("every", [1, 2])
def test_attacks_are_a_term_beside_the_people_s_pairs(loss, every):
    stage = RewardModeling(RewardModelingOptions(attack_weight=0.7), model=tiny_model(), loss=loss, **parts()).double()
    torch.nn.init.normal_(stage.model.score.weight)
    plain = rankings(6)
    plain = plain._replace(weights=torch.arange(1.0, 7.0))
    batch = attacked(plain, every)
    scores = stage.model(*padded(batch.completions)[:2])
    by_hand, people = 0.0, torch.zeros(len(scores), dtype=torch.bool).index_fill(0, batch.attacks.answers, True)
    for group in range(0, 6, every):
        mine = batch.groups == group
        answers, attack = scores[mine & people], scores[mine & ~people]
        ordered = len(set(batch.ranks[mine & people].tolist())) > 1
        by_hand += ordered * plain.weights[group] * F.softplus(attack - answers).mean()
    (total, count, sums), (alone, people_count, people_sums) = stage.loss(batch), stage.loss(plain)
    assert count == people_count
    torch.testing.assert_close(total - alone, 0.7 * by_hand)
    assert sums.keys() == people_sums.keys()
    for name in sums:
        torch.testing.assert_close(sums[name], people_sums[name], msg=name)


def test_a_prompt_whose_answers_are_all_tied_is_not_counted_for_its_attack():
    stage, batch = RewardModeling(model=tiny_model(), **parts()), rankings(3)
    total, count, _ = stage.loss(attacked(remade(batch, ranks=torch.ones_like(batch.ranks))))
    assert (total.item(), count.item()) == (0.0, 0.0)


def test_an_attack_says_nothing_of_who_ranked_and_knows_no_margin():
    batch = remade(rankings(6), annotators=[0, 1] * 3, margins=torch.ones(6))
    grads = []
    for one in (batch, attacked(batch)):
        stage = RewardModeling(RewardModelingOptions(adherence="learned"), model=tiny_model(), **parts())
        torch.nn.init.normal_(stage.model.score.weight, generator=torch.Generator().manual_seed(1))
        stage.adherence = Adherence("ab", {"a": 3, "b": 3}, 10.0, 10.0)
        with torch.no_grad():
            stage.adherence.log_values.copy_(torch.tensor([0.4, -0.3]))
        stage.train()
        stage.loss(one)[0].backward()
        grads.append(stage.adherence.log_values.grad)
    torch.testing.assert_close(*grads)


def test_batches_without_attacks_are_left_as_they_are():
    batch = rankings(3)
    for one in (batch, remade(batch, attacked=[False] * 9)):
        assert one.attacks is None and without_attacks(one) is one


def test_marks_for_other_completions_and_negative_weights_are_refused():
    with pytest.raises(UserError, match="2 marks of attacks, 9 completions"):
        remade(rankings(3), attacked=[True, True])
    with pytest.raises(UserError, match=r"stage\.attack_weight: -1"):
        RewardModeling(RewardModelingOptions(attack_weight=-1), model=tiny_model(), **parts())
