"""KTO: it starts at margin 0 and a loss of 1/2, is its formula in a loop, and learns a rule from single labels."""

import logging
import math

import numpy as np
import pytest
import torch

from lit_llm.data.labelled_answers import labelled_batch
from lit_llm.errors import UserError
from lit_llm.records import LabelledBatch
from lit_llm.stages.kto import KTO
from lit_llm.stages.options import KTOOptions

from .toy import LIKED, VOCABULARY, loader, padded, parts, rankings, tiny_model, trainer


def labelled(prompts: int, seed: int = 0) -> LabelledBatch:
    """The best and the worst of each prompt's random answers, with the completion of the next prompt beside each."""
    batch = rankings(prompts, k=3, seed=seed)
    rows, mixed = batch.completions.rows, []
    for row, (prompt, _) in enumerate(rows):
        other = next(o for o in [*range(row + 1, len(rows)), *range(row)] if batch.groups[o] != batch.groups[row])
        mixed.append((prompt, rows[other][1]))
    labels = [int((answer == LIKED).sum()) >= 2 for _, answer in rows]
    return labelled_batch(rows, labels, [1.0] * len(rows), unrelated=mixed)


def plain(completions):
    """(ids, tokens of its prompt, tokens) of each completion."""
    ids, lengths, prompts = padded(completions)
    return zip(ids, prompts.tolist(), lengths.tolist(), strict=True)


def logp(net, ids, prompt, length):
    with torch.no_grad():
        rows = net.logits(net(ids[None, :length]))[0].double().log_softmax(-1)
    return sum(rows[t, ids[t + 1]].item() for t in range(prompt - 1, length - 1))


def test_it_starts_at_margin_zero_and_a_loss_of_one_half():
    stage, run = KTO(model=tiny_model(dropout=0.3), **parts()), trainer(max_steps=1, max_epochs=1)
    run.fit(stage, loader([labelled(6)]))
    logged = {name: value.item() for name, value in run.logged_metrics.items()}
    assert logged["train/loss"] == pytest.approx(0.5, abs=1e-6)
    for name in ("train/kl", "rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert logged[name] == pytest.approx(0, abs=1e-6)
    assert {"logps/chosen", "logps/rejected", "rewards/accuracies", "train/nll"} <= set(logged)


def test_the_loss_and_what_is_logged_are_those_of_a_loop():
    stage = KTO(KTOOptions(beta=0.5, desirable_weight=1.2, undesirable_weight=0.8), model=tiny_model(), **parts())
    batch = labelled(4)._replace(weights=torch.linspace(0.5, 2, 12))
    with torch.no_grad():
        for parameter in stage.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    stage._checked = True
    total, count, sums = stage.loss(batch)
    start = tiny_model()

    def ratio(ids, prompt, length):
        return logp(stage.model, ids, prompt, length) - logp(start, ids, prompt, length)

    unrelated = [ratio(*row) for row in plain(batch.unrelated)]
    z = max(0.0, sum(unrelated) / len(unrelated))
    own = [ratio(*row) for row in plain(batch.completions)]
    signs = [1 if label else -1 for label in batch.labels]
    each = [(1.2 if s > 0 else 0.8) / (1 + math.exp(s * 0.5 * (h - z))) for s, h in zip(signs, own, strict=True)]
    weights = batch.weights.tolist()
    assert total.item() == pytest.approx(sum(w * x for w, x in zip(weights, each, strict=True)), rel=1e-4)
    assert count.item() == pytest.approx(sum(weights), rel=1e-6)
    assert sums["kl"].item() == pytest.approx(z, rel=1e-3, abs=1e-5)
    good = [0.5 * h for h, s in zip(own, signs, strict=True) if s > 0]
    assert stage.derived({k: float(v) for k, v in sums.items()} | {"loss": 1.0, "count": 1.0})[
        "rewards/chosen"
    ] == pytest.approx(sum(good) / len(good), rel=1e-3)


def test_it_learns_a_rule_on_held_out_prompts():
    stage = KTO(model=tiny_model(), **parts(lr=2e-3))
    trainer(max_epochs=1).fit(stage, loader([labelled(12, seed=i) for i in range(30)]))
    batch, start = labelled(60, seed=99), tiny_model()
    rewards = torch.tensor([logp(stage.model, *row) - logp(start, *row) for row in plain(batch.completions)])
    good, bad = rewards[batch.labels], rewards[~batch.labels]
    assert (good[:, None] > bad).float().mean() > 0.85


ROW, NOTHING = (np.array([6, 7]), np.array([8, 1])), np.zeros(0, dtype=np.int64)


@pytest.mark.parametrize(
    ("rows", "labels", "weights", "message"),
    [
        ([ROW], [True], [-1.0], "completion 0 of the batch has weight -1"),
        ([ROW], [True], [math.nan], "completion 0 of the batch has weight nan"),
        ([ROW], [1.0], [1.0], "true \\(good\\) or false"),
        ([(NOTHING, ROW[1])], [True], [1.0], "the prompt of completion 0"),
        ([ROW, (ROW[0], NOTHING)], [True, True], [1.0, 1.0], "completion 1 of the batch has no token"),
    ],
)
def test_what_is_no_label_is_refused_when_a_batch_is_made(rows, labels, weights, message):
    with pytest.raises(UserError, match=message):
        labelled_batch(rows, labels, weights)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (labelled(4)._replace(unrelated=None), "all completions answer one prompt"),
        (labelled_batch([(ROW[0], ROW[1] + VOCABULARY)], [True], [1.0], unrelated=[ROW]), f"token {VOCABULARY + 8}"),
        (labelled_batch([ROW], [True], [1.0], unrelated=[(ROW[0], np.full(63, 7))]), "ends at token 65"),
    ],
)
def test_what_it_cannot_learn_from_is_an_error_before_any_step(batch, message):
    stage = KTO(model=tiny_model(), **parts())
    with pytest.raises(UserError, match=message):
        trainer(max_epochs=1).fit(stage, loader([batch]))


@pytest.mark.parametrize("name", ["beta", "desirable_weight", "undesirable_weight"])
def test_impossible_options_are_refused_when_the_stage_is_made(name):
    with pytest.raises(UserError, match=f"stage.{name}: 0"):
        KTO(KTOOptions(**{name: 0.0}), model=tiny_model(), **parts())


@pytest.mark.parametrize(
    ("good", "bad", "advice"), [(10, 40, "desirable_weight=4 "), (40, 10, "undesirable_weight=4 ")]
)
def test_unbalanced_labels_are_told_with_the_weight_that_balances_them(good, bad, advice, caplog):
    with caplog.at_level(logging.WARNING):
        KTO(model=tiny_model(), **parts())._tell_balance(good, bad)
    assert f"stage.{advice}" in caplog.text
