"""The flag classifier: what it learns, the threshold that it keeps, what it refuses."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lit_llm.backbone import huggingface
from lit_llm.data.labelled_answers import labelled_batch
from lit_llm.errors import UserError
from lit_llm.evaluation.classification import best_threshold, labels
from lit_llm.records import LabelledBatch
from lit_llm.stages.flag_classification import FlagClassification
from lit_llm.stages.options import FlagOptions

from .toy import LIKED, VOCABULARY, loader, made, padded, parts, rankings, tiny_model, trainer


def answers(count: int, seed: int, noise: float = 0.0) -> LabelledBatch:
    """Random answers, flagged where at least two tokens are LIKED; a share ``noise`` of the labels is turned."""
    batch = rankings(count // 2, k=2, seed=seed)
    flagged = [int((answer == LIKED).sum()) >= 2 for _, answer in batch.completions.rows]
    turned = torch.rand(len(flagged), generator=torch.Generator().manual_seed(seed)) < noise
    return labelled_batch(batch.completions.rows, torch.tensor(flagged) ^ turned, [1.0] * len(flagged))


def fitted(**options) -> FlagClassification:
    stage = made(FlagClassification, model=tiny_model(), **options, **parts())
    batches = [answers(32, seed, noise=0.1) for seed in range(30)]
    trainer(max_epochs=1).fit(stage, loader(batches), loader([answers(200, 77, noise=0.1)]))
    return stage


def probabilities(stage: FlagClassification, batch: LabelledBatch) -> np.ndarray:
    with torch.no_grad():
        return torch.sigmoid(stage.model.eval()(*padded(batch.completions)[:2])).double().numpy()


def test_it_learns_what_is_flagged_and_keeps_the_best_threshold(tmp_path):
    stage, unseen = fitted(), answers(300, 99)
    right = (probabilities(stage, unseen) >= stage.model.threshold) == unseen.labels.numpy()
    assert right.mean() > 0.85
    validation = answers(200, 77, noise=0.1)
    expected = best_threshold(labels(probabilities(stage, validation), validation.labels.numpy()))
    assert stage.model.threshold == pytest.approx(expected, abs=1e-6) and stage.model.threshold != 0.5
    stage.save(tmp_path)
    kept = json.loads((tmp_path / "flags.json").read_text())
    assert kept["threshold"] == stage.model.threshold and kept["validation"]["auroc"] > 0.8
    again = huggingface.load_score_model(tmp_path)
    assert (again.label, again.threshold) == ("flagged", stage.model.threshold)
    stage.evaluated(tmp_path, {"flags": {"sensitivity": {"mean": 0.8, "se": 0.1, "n": 3}}})
    kept = json.loads((tmp_path / "flags.json").read_text())
    assert kept["heldout"]["flags"]["sensitivity"]["mean"] == 0.8 and kept["answers"] == 200


def test_the_head_alone_leaves_the_transformer():
    stage, before = (
        FlagClassification(FlagOptions(trained="head"), model=tiny_model(), **parts()),
        tiny_model().backbone.state_dict(),
    )
    head, batch = stage.model.score.weight.detach().clone(), answers(64, 0)
    first = stage.loss(batch)[0].item()
    trainer(max_epochs=1).fit(stage, loader([batch] * 30))
    assert all(torch.equal(value, before[name]) for name, value in stage.model.backbone.state_dict().items())
    assert not torch.equal(stage.model.score.weight, head) and stage.loss(batch)[0].item() < first


@pytest.mark.parametrize(("weight", "used"), [(None, 1.0), (3.0, 3.0)])
def test_the_loss_is_weighted_cross_entropy(weight, used):
    stage = FlagClassification(FlagOptions(positive_weight=weight), model=tiny_model(), **parts())
    batch = answers(16, 0)._replace(weights=torch.linspace(0, 2, 16))
    total, count, _ = stage.loss(batch)
    z, y = stage.model(*padded(batch.completions)[:2]).double(), batch.labels.double()
    expected = -(used * y * F.logsigmoid(z) + (1 - y) * F.logsigmoid(-z)) * batch.weights
    assert total.item() == pytest.approx(expected.sum().item(), rel=1e-5) and count.item() == pytest.approx(16)


def test_balanced_weights_are_the_training_data_s():
    stage = FlagClassification(FlagOptions(positive_weight="balanced"), model=tiny_model(), **parts())
    batches = [answers(32, seed, noise=0.1)._replace(weights=torch.rand(32) + 0.1) for seed in range(5)]
    trainer(max_epochs=1).fit(stage, loader(batches), loader([answers(20, 77)]))
    labels, weights = (torch.cat([getattr(one, name) for one in batches]) for name in ("labels", "weights"))
    assert stage._weight == pytest.approx((weights[~labels].sum() / weights[labels].sum()).item(), rel=1e-5)
    assert stage._weight != pytest.approx(((~labels).sum() / labels.sum()).item(), rel=1e-3)


def test_a_loaded_classifier_validates_with_the_weight_of_training(tmp_path):
    stage = FlagClassification(FlagOptions(positive_weight="balanced"), model=tiny_model(), **parts())
    run, validation = trainer(max_epochs=1), loader([answers(20, 77)])
    run.fit(stage, loader([answers(32, seed, noise=0.1) for seed in range(3)]), validation)
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = FlagClassification.load_from_checkpoint(tmp_path / "a.ckpt")
    assert again._weight == stage._weight != 1.0
    assert trainer().validate(again, validation) == run.validate(stage, validation)
    old = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del old["positive_weight"]
    torch.save(old, tmp_path / "old.ckpt")
    assert FlagClassification.load_from_checkpoint(tmp_path / "old.ckpt")._weight == 1.0


@pytest.mark.parametrize("options", [{"trained": "some"}, {"positive_weight": 0.0}, {"positive_weight": "even"}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UserError, match=f"stage.{next(iter(options))}="):
        made(FlagClassification, model=tiny_model(), **options, **parts())


def test_what_the_model_cannot_read_is_refused():
    stage = FlagClassification(model=tiny_model(), **parts())
    for answer, said in ((np.array([VOCABULARY]), f"token {VOCABULARY}"), (np.full(63, 6), "ends at token 65")):
        with pytest.raises(UserError, match=said):
            stage.loss(labelled_batch([(np.array([6, 6]), answer)], [True], [1.0]))
