"""The DataModules inside Lightning: any of them goes on where it stopped, and only with the data it had."""

import lightning as L
import pytest
import torch

from lit_llm.data.domain_corpora import DomainCorpora
from lit_llm.data.instructions import Instructions
from lit_llm.data.preferences import Preferences
from lit_llm.data.prompts import Prompts
from lit_llm.data.raw_text import RawText
from lit_llm.data.task_pairs import TaskPairs
from lit_llm.errors import UserError

MODULES = {
    "raw_text": RawText,
    "domain_corpora": DomainCorpora,
    "task_pairs": TaskPairs,
    "instructions": Instructions,
    "preferences": Preferences,
    "prompts": Prompts,
}


class Recorder(L.LightningModule):
    """Notes what each training step and each validation loader gave."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.validated = [], set()

    def training_step(self, batch, _):
        made = getattr(batch, "completions", None)
        self.seen.append(batch.input_ids.tolist() if made is None else made.host.keys.tolist())
        return self.weight.sum()

    def validation_step(self, _batch, _, dataloader_idx=0):
        self.validated.add(dataloader_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAndSave(L.Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(data, folder, callbacks=(), checkpoint=None, **options):
    module = Recorder()
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module


@pytest.fixture
def made(tokenizer, write, sentence, cache):
    """made(name, **options): a DataModule of each kind over a few records."""
    texts = [{"text": sentence(n, 30)} for n in range(70)]
    pairs = [{"source": f"Q {sentence(n)}", "target": sentence(n + 99, 4)} for n in range(70)]
    rankings = [
        {"prompt": f"Q{n}", "completions": [sentence(n), sentence(n + 1)], "ranking": [1, 2]} for n in range(30)
    ]
    own = {
        "raw_text": (texts, {"max_length": 64, "micro_batch_size": 2}),
        "domain_corpora": (texts, {"max_length": 64, "replay_path": write("general.jsonl", pairs_as_texts(pairs))}),
        "task_pairs": (pairs, {}),
        "instructions": (pairs, {}),
        "preferences": (rankings, {}),
        "prompts": (rankings, {}),
    }

    def make(name, extra=(), **options):
        rows, defaults = own[name]
        path = write(f"{name}.jsonl", [*rows, *extra])
        given = {"path": path, "cache_dir": cache, **defaults, **options}
        return MODULES[name](MODULES[name].Options(**given), tokenizer=tokenizer)

    return make


def pairs_as_texts(pairs):
    return [{"text": " ".join(pair.values()) * 3} for pair in pairs]


@pytest.mark.parametrize("name", list(MODULES))
def test_stopped_in_the_middle_of_an_epoch_and_at_its_end_it_goes_on_with_the_rest(made, tmp_path, name):
    whole = fit(made(name), tmp_path)
    assert whole.validated == set(range(len(made(name).source_names)))
    steps = len(whole.seen) // 2
    for stop in {1, steps // 2 + 1, steps}:
        path = tmp_path / f"{stop}.ckpt"
        first = fit(made(name), tmp_path, [StopAndSave(stop, path)])
        second = fit(made(name), tmp_path, checkpoint=path)
        assert first.seen == whole.seen[:stop]
        assert first.seen + second.seen == whole.seen


def test_a_limited_epoch_goes_on_exactly_too(made, tmp_path):
    for limit in (2, 0.4):
        whole = fit(made("raw_text"), tmp_path, limit_train_batches=limit)
        steps = len(whole.seen) // 2
        path = tmp_path / f"{limit}.ckpt"
        first = fit(made("raw_text"), tmp_path, [StopAndSave(steps, path)], limit_train_batches=limit)
        second = fit(made("raw_text"), tmp_path, checkpoint=path, limit_train_batches=limit)
        assert steps >= 2 and first.seen + second.seen == whole.seen


def test_changed_data_is_refused_on_resume_unless_accepted(made, tmp_path, sentence):
    path = tmp_path / "stop.ckpt"
    fit(made("raw_text"), tmp_path, [StopAndSave(1, path)])
    more = [{"text": sentence(5000, 30)}]
    with pytest.raises(UserError, match="the training data changed since the checkpoint"):
        fit(made("raw_text", more), tmp_path, checkpoint=path)
    assert fit(made("raw_text", more, accept_changed_data=True), tmp_path, checkpoint=path).seen


def test_overfitting_takes_the_same_batches_every_epoch(made, tmp_path):
    seen = fit(made("raw_text"), tmp_path, overfit_batches=2).seen
    assert seen[:2] == seen[2:]
