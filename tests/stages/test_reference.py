"""The reference: its log-probabilities as a file, what that file must be of, and the policy's adapters switched off."""

import hashlib
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from lit_llm.backbone import huggingface
from lit_llm.backbone.lora import adapted
from lit_llm.data.options import DataOptions
from lit_llm.errors import UserError
from lit_llm.objectives.preference import orpo
from lit_llm.records import LabelledBatch, RankingBatch
from lit_llm.stages import reference as reference_module
from lit_llm.stages.kto import KTO
from lit_llm.stages.options import PreferenceOptions
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.reference_store import KnownLogps, Origin, read

from .test_kto import labelled
from .toy import loader, made, padded, parts, rankings, tiny_model, trainer


class Rows:
    """Batches of one, which the toy's batches are cut into."""

    def __init__(self, make, count):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return index

    def collate(self, items):
        return self.make(3, seed=items[0])


class Data(L.LightningDataModule):
    def __init__(self, make, cache_dir, name="data"):
        super().__init__()
        self.options, self.name = DataOptions(micro_batch_size=1, cache_dir=str(cache_dir)), name
        self.prepared = SimpleNamespace(train=Rows(make, 4), validation={"v": Rows(make, 2)})

    def fingerprint(self):
        return self.name

    def placed(self, rows):
        return rows

    def train_dataloader(self):
        return loader([self.prepared.train.collate([index]) for index in range(4)])

    def val_dataloader(self):
        return loader([self.prepared.train.collate([index]) for index in range(2)])


@pytest.fixture
def counted(monkeypatch):
    """How many rows were run through the network to know their log-probabilities under the reference."""
    found = []
    run = reference_module.AgainstReference._by_reference
    monkeypatch.setattr(
        reference_module.AgainstReference,
        "_by_reference",
        lambda self, rows: (found.append(len(rows.rows)), run(self, rows))[1],
    )
    return found


def fit(stage, data):
    run = trainer(max_epochs=2)
    run.fit(stage, datamodule=data)
    return {name: value.item() for name, value in run.logged_metrics.items()}


@pytest.mark.parametrize(("stage", "make"), [(PreferenceOptimization, rankings), (KTO, labelled)])
def test_a_second_run_reads_what_the_first_computed_and_learns_the_same(stage, make, tmp_path, counted):
    plain = fit(stage(model=tiny_model(), **parts()), Data(make, tmp_path))
    counted.clear()
    first = made(stage, model=tiny_model(), reference_cache=True, **parts())
    assert first.reference is None
    logged = fit(first, Data(make, tmp_path))
    assert counted, "the first run computes them"
    counted.clear()
    again = fit(made(stage, model=tiny_model(), reference_cache=True, **parts()), Data(make, tmp_path))
    assert not counted and again == logged
    assert logged == pytest.approx(plain, rel=1e-4, abs=1e-5)
    assert len(list((tmp_path / "reference_logps").iterdir())) == 1


def test_a_resumed_run_knows_what_was_computed_to_the_bit(tmp_path):
    """In another batch a log-probability is rounded otherwise: an epoch later it must be the one of before."""
    one, two = (PreferenceOptimization(model=tiny_model(), **parts()) for _ in range(2))
    fit(one, Data(rankings, tmp_path))
    checkpoint, two.trainer = {}, one.trainer
    one.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "kept")
    two.on_load_checkpoint(torch.load(tmp_path / "kept", weights_only=True))
    assert two._known.as_dict() == one._known.as_dict() and len(two._known) > 20
    stored = PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(), **parts())
    stored.trainer, checkpoint = one.trainer, {}
    stored.on_save_checkpoint(checkpoint)
    assert "reference_logps" not in checkpoint  # its file holds them


def test_what_is_known_grows_without_being_copied_at_every_step():
    """As many copies as it doubles, and no value is another one; of a key that comes twice the last counts."""
    values, known, places = torch.rand(400, dtype=torch.float64), KnownLogps({b"given": -1.5}), set()
    for first in range(0, 400, 2):
        known.add([b"%d" % first, b"%d" % first, b"%d" % (first + 1)], values[[first, first, first + 1]])
        places.add(known._values.data_ptr())
    known.add([b"7", b"new"], torch.tensor([-2.5, -3.5]))
    expected = {b"given": -1.5} | {b"%d" % n: value for n, value in enumerate(values.tolist())}
    assert known.as_dict() == expected | {b"7": -2.5, b"new": -3.5} and len(known) == 402
    assert known.of([b"new", b"3", b"given"], torch.device("cpu")).tolist() == [-3.5, values[3].float().item(), -1.5]
    assert len(places) < 12


def loaded(path, **live):
    return PreferenceOptimization.load_from_checkpoint(path, **live, **parts())


def test_a_loaded_stage_finds_the_file_of_its_reference_or_says_that_there_is_none(tmp_path, counted):
    """Without the model, whose hash the checkpoint keeps; with it, what no file holds is computed from it."""
    stage, data = made(PreferenceOptimization, model=tiny_model(), reference_cache=True, **parts()), tmp_path / "data"
    run, path = trainer(max_epochs=1), tmp_path / "a.ckpt"
    run.fit(stage, datamodule=Data(rankings, data))
    run.save_checkpoint(path)
    counted.clear()
    again = loaded(path)
    fit(again, Data(rankings, data))
    assert not counted and again._known.as_dict() == stage._known.as_dict()
    with pytest.raises(UserError, match="the reference is in no checkpoint"):
        fit(loaded(path), Data(rankings, tmp_path / "empty"))
    begun = loaded(path, model=tiny_model())
    fit(begun, Data(rankings, tmp_path / "empty"))
    assert begun._known.as_dict() == stage._known.as_dict() and begun.reference is None
    old = torch.load(path, weights_only=True)
    del old["reference_hash"]
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match="the reference is in no checkpoint"):
        fit(loaded(tmp_path / "old.ckpt"), Data(rankings, data))


def test_all_data_is_computed_before_the_first_step(tmp_path, counted):
    stage = PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(), **parts())
    seen = []
    stage.on_train_start = lambda: seen.append(sum(counted))
    fit(stage, Data(rankings, tmp_path))
    # Four training batches and two of validation (the same as the first two), with 9 completions each.
    assert seen == [36] and sum(counted) == 36


def test_other_data_or_another_model_finds_no_cache_and_refuses_the_file(tmp_path, counted):
    fit(
        PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(), **parts()),
        Data(rankings, tmp_path),
    )
    (file,) = (tmp_path / "reference_logps").iterdir()
    for seed, name in ((1, "data"), (0, "other")):
        counted.clear()
        stage = PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(seed=seed), **parts())
        fit(stage, Data(rankings, tmp_path, name))
        assert counted
    other = PreferenceOptimization(PreferenceOptions(reference_logps=str(file)), model=tiny_model(seed=1), **parts())
    with pytest.raises(UserError, match="another reference"):
        fit(other, Data(rankings, tmp_path))
    same = PreferenceOptimization(PreferenceOptions(reference_logps=str(file)), model=tiny_model(), **parts())
    with pytest.raises(UserError, match="another data"):
        fit(same, Data(rankings, tmp_path, "o"))
    counted.clear()
    fit(
        PreferenceOptimization(PreferenceOptions(reference_logps=str(file)), model=tiny_model(), **parts()),
        Data(rankings, tmp_path),
    )
    assert not counted


def test_a_damaged_or_missing_file_is_named(tmp_path):
    origin = Origin("d", "r", "p")
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none", origin)
    (tmp_path / "bad").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="bad: no log-probabilities"):
        read(tmp_path / "bad", origin)


def test_the_margin_is_checked_at_the_start_with_stored_values_too(tmp_path):
    fit(
        PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(), **parts()),
        Data(rankings, tmp_path),
    )
    stage = PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(), **parts())
    with torch.no_grad():
        stage.model.lm_head.weight.mul_(30)  # after the reference's hash was taken
    with pytest.raises(UserError, match="before the first update"):
        fit(stage, Data(rankings, tmp_path))


def test_a_loss_without_reference_has_no_use_for_a_file():
    with pytest.raises(UserError, match="needs no reference"):
        PreferenceOptimization(PreferenceOptions(reference_logps="f"), model=tiny_model(), loss=orpo, **parts())
    options = PreferenceOptions(reference_cache=True)
    assert PreferenceOptimization(options, model=tiny_model(), loss=orpo, **parts()).reference is None


def test_without_a_data_module_there_is_nothing_to_store():
    stage = PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(), **parts())
    with pytest.raises(UserError, match="data module"):
        trainer(max_epochs=1).fit(stage, loader([rankings(3)]))


@pytest.mark.parametrize(("stage", "make"), [(PreferenceOptimization, rankings), (KTO, labelled)])
def test_with_adapters_the_policy_without_them_is_the_reference(stage, make, tmp_path):
    learner = made(stage, model=tiny_model(), lora_rank=4, base_model="base", **parts(lr=1e-2))
    assert learner.reference is None
    logged = fit(learner, Data(make, tmp_path))
    assert logged["rewards/margins"] > 0
    start = tiny_model()
    for name, value in start.state_dict().items():
        moved = name.rpartition(".")[0]
        assert torch.equal(learner.model.get_submodule(moved).weight, value), name
    assert adapted(learner.model) and not adapted(learner.exported())
    learner.save(tmp_path / "run" / "model")
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
    (batch,) = [make(3, seed=7)]
    assert isinstance(batch, RankingBatch | LabelledBatch)
    loaded = huggingface.load_language_model(tmp_path / "run" / "model").eval()
    ids = padded(batch.completions)[0]
    torch.testing.assert_close(loaded(ids), learner.model(ids), rtol=1e-4, atol=1e-4)


def test_adapters_and_stored_values_go_together(tmp_path, counted):
    fit(
        PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(), **parts()),
        Data(rankings, tmp_path),
    )
    counted.clear()
    stage = PreferenceOptimization(PreferenceOptions(reference_cache=True, lora_rank=2), model=tiny_model(), **parts())
    fit(stage, Data(rankings, tmp_path))
    assert not counted, "the base is the same, so the values are"


def test_two_processes_compute_a_share_each_and_know_all(tmp_path, monkeypatch):
    computed = tmp_path / "computed"
    computed.mkdir()
    run = reference_module.AgainstReference._compute_all

    def compute(self, data):
        found, by_reference = [], self._by_reference
        self._by_reference = lambda rows: (found.append(len(rows.rows)), by_reference(rows))[1]
        run(self, data)
        self._by_reference = by_reference
        (computed / str(self.trainer.global_rank)).write_text(f"{sum(found)} {len(self._known)} {hash_of(self)}")

    monkeypatch.setattr(reference_module.AgainstReference, "_compute_all", compute)
    stage = PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(), **parts())
    trainer(max_epochs=1, devices=2, strategy="ddp_fork").fit(stage, datamodule=Data(rankings, tmp_path))
    first, second = ((computed / name).read_text().split() for name in "01")
    # Two of four training batches (validation's are the first two again); both know the 36 different completions.
    assert first[0] == second[0] == "18" and first[1:] == second[1:] and first[1] == "36"
    assert len(list((tmp_path / "reference_logps").iterdir())) == 1


def hash_of(stage):
    return hashlib.sha256(repr(list(stage._known.as_dict().items())).encode()).hexdigest()


def test_a_node_that_lacks_the_file_has_all_compute_and_write_it(tmp_path, monkeypatch, counted):
    """Two nodes without a shared disk: this one has the file, the other says that it has none."""
    fit(
        PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(), **parts()),
        Data(rankings, tmp_path),
    )
    counted.clear()
    monkeypatch.setattr(
        reference_module, "gathered", lambda value, _: [value, False] if isinstance(value, bool) else [value]
    )
    fit(
        PreferenceOptimization(PreferenceOptions(reference_cache=True), model=tiny_model(), **parts()),
        Data(rankings, tmp_path),
    )
    assert sum(counted) == 36
