"""A run of any stage, limited in any way and stopped anywhere, goes on to the same weights, rows and validations."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import lightning as L
import pytest
import torch

from lit_llm.checkpointing.resume import find_checkpoint
from lit_llm.config import monitored_metrics
from lit_llm.config.command_line import compose
from lit_llm.runtime.lightning_loops import steps_done
from lit_llm.training import trainer as trainers
from lit_llm.training.build import load
from lit_llm.training.train import run
from tests.chain_data import write_data, write_rankings

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")

COMMON = [
    "trainer=cpu", "trainer.precision=32-true", "trainer.checkpoint_every_n_steps=1", "trainer.limit_val_batches=2",
    "trainer.val_check_interval=0.5", "trainer.progress=false", "logger=csv", "callbacks=none", "optimizer.lr=1e-2",
    "trainer.log_every_n_steps=1", "data.micro_batch_size=2",
]  # fmt: skip
ACCUMULATED = ["trainer.global_batch_size=4", "trainer.limit_train_batches=7"]  # windows of 2, 2, 2 and 1 batches
ROLLOUTS = ["trainer.limit_train_batches=4", "reward=length", "stage.max_new_tokens=4", "stage.minibatches=2"]
STAGES = {
    "pretraining": ["data.max_length=32", "backbone.dropout=0.1", *ACCUMULATED],
    "continued_pretraining": ["data.max_length=32", "data.replay_ratio=0.4", "stage.lora_rank=2", *ACCUMULATED],
    "fine_tuning": ["data.max_length=64", "stage.lora_rank=2", "stage.lora_dropout=0.2", *ACCUMULATED],
    "instruction_tuning": ["data.max_length=96", "stage.neftune_noise_alpha=5", *ACCUMULATED],
    "reward_modeling": ["data.max_length=96", *ACCUMULATED],
    "flag_classification": ["data.max_length=96", "data.label=desirable", "stage.lora_rank=2", *ACCUMULATED],
    "dpo": ["data.max_length=96", *ACCUMULATED],
    "kto": ["data.max_length=96", *ACCUMULATED],
    "ppo": ["stage.epochs=2", *ROLLOUTS],
    "qlora": ["data.max_length=64", "stage.lora_rank=2", "stage.lora_quantization=nf4", *ACCUMULATED],
    "qlora_ppo": ["stage.epochs=2", "stage.lora_rank=2", "stage.lora_quantization=nf4", *ROLLOUTS],
    "grpo": ["stage.group_size=2", "stage.kl_coef=0.1", *ROLLOUTS],
}
DATA = {
    "pretraining": "raw_text", "continued_pretraining": "domain", "fine_tuning": "task_pairs",
    "instruction_tuning": "instructions", "reward_modeling": "rankings", "flag_classification": "rankings",
    "dpo": "rankings", "kto": "rankings", "ppo": "prompts", "grpo": "prompts",
    "qlora": "instructions", "qlora_ppo": "prompts",
}  # fmt: skip
LIMITS = {
    "epochs": ["trainer.max_epochs=2", "trainer.max_steps=null"],
    "steps": ["trainer.max_steps=7", "trainer.max_epochs=null"],
    "steps and epochs": ["trainer.max_steps=7", "trainer.max_epochs=2"],
    "time": ["trainer.max_time=00:00:00:06", "trainer.max_epochs=2", "trainer.max_steps=null"],  # of a clock of steps
    "tokens": ["trainer.max_epochs=2", "trainer.max_steps=null"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    write_rankings(folder, 5)
    return folder


@pytest.fixture(scope="module")
def parent(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    small = ["backbone.depth=1", "backbone.hidden_size=32", "backbone.max_positions=96", "tokenizer.vocab_size=300"]
    words = [*COMMON, *small, "data.max_length=32", "trainer.max_steps=1", "evaluation.enabled=false"]
    run(compose("train", [*words, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache"]), folder)
    return folder / "model"


class StoppedError(Exception):
    pass


class Watch(L.Callback):
    """Writes down the rows of every batch and the steps that are validated; stops the run where it is told to.

    ``stop``: a hook's name, and the number of optimizer steps that have to be done by then.
    """

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.stop, self.rows, self.validated, self.clock = stop, {}, [], 0.0

    def monotonic(self) -> float:
        return self.clock

    def _maybe(self, hook: str, trainer: L.Trainer) -> None:
        if self.stop is not None and (hook, steps_done(trainer)) == self.stop:
            self.stop = None
            raise StoppedError(hook)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):  # noqa: ARG002
        content = b"".join(part.numpy().tobytes() for part in batch if torch.is_tensor(part))
        self.rows[trainer.fit_loop.epoch_loop.batch_progress.total.ready] = hashlib.sha256(content).hexdigest()
        own = not pl_module.automatic_optimization  # each of its batches is a step
        if own or trainer.fit_loop.epoch_loop.batch_progress.current.ready % 2 == 0:
            self._maybe("within a step", trainer)

    def on_train_batch_end(self, trainer, *args):  # noqa: ARG002
        if not trainer.fit_loop._should_accumulate():
            self.clock += 1

    def on_train_epoch_start(self, trainer, pl_module):  # noqa: ARG002
        self._maybe("as an epoch begins", trainer)

    def on_train_epoch_end(self, trainer, pl_module):  # noqa: ARG002
        self._maybe("as an epoch ends", trainer)

    def on_validation_batch_end(self, trainer, *args):  # noqa: ARG002
        self._maybe("in validation", trainer)

    def on_validation_end(self, trainer, pl_module):  # noqa: ARG002
        self.validated.append(steps_done(trainer))

    def on_train_end(self, trainer, pl_module):  # noqa: ARG002
        self._maybe("at the end", trainer)


def train(cfg, folder: Path, watch: Watch, monkeypatch) -> dict:
    """Goes on in ``folder``. Returns all that a run that was not stopped would have too."""
    parts = load(cfg, folder)
    monkeypatch.setattr(trainers.time, "monotonic", watch.monotonic)
    parts.callbacks.insert(0, watch)
    trainer = trainers.build(parts, folder)
    checkpoint = find_checkpoint(folder) if folder.joinpath("checkpoints").is_dir() else None
    try:
        trainer.fit(parts.stage, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
    finally:
        monkeypatch.undo()
    logged = trainer.callback_metrics
    measured = {name: value for name, value in logged.items() if name == "val/loss" or name.count("/") > 1}
    schedules = [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs]
    return {
        "weights": parts.stage.state_dict(),
        "optimizers": [optimizer.state_dict()["state"] for optimizer in trainer.optimizers],
        "rates": [state["_last_lr"] for state in schedules],
        "validation": measured,
        "latest": parts.stage.latest,
        "steps": steps_done(trainer),
        "logged": trainer.fit_loop.epoch_loop._batches_that_stepped,
    }


def same(one, two) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def words_of(stage: str, limit: str, data: Path, parent: Path) -> list[str]:
    name = {"qlora": "instruction_tuning", "qlora_ppo": "ppo"}.get(stage, stage)
    words = [f"stage={name}", *COMMON, *STAGES[stage], *LIMITS[limit], f"init_from={parent}"]
    if limit == "tokens":  # six steps of four rows
        (length,) = (word.removeprefix("data.max_length=") for word in words if word.startswith("data.max_length="))
        words.append(f"trainer.max_tokens={6 * 4 * int(length)}")
    words += [f"data.path={data}/{DATA[stage]}", f"data.cache_dir={data}/cache"]
    return words + ([f"data.replay_path={data}/raw_text"] if stage == "continued_pretraining" else [])


def stops(steps: int, all_of_them: bool) -> list[tuple[str, int]]:
    """Of a run of 4 steps an epoch."""
    most = [("within a step", 1), ("as an epoch ends", 4), ("within a step", 5), ("in validation", steps)]
    more = [("in validation", 2), ("as an epoch begins", 4), ("at the end", steps)]
    return sorted(most + more * all_of_them, key=lambda stop: stop[1])


# The same loop, and state of the same kind, as a case that runs every day.
LIKE_OTHERS = {
    ("pretraining", "steps and epochs"), ("pretraining", "tokens"), ("flag_classification", "epochs"),
    ("kto", "epochs"), ("qlora", "epochs"), ("ppo", "time"),
}  # fmt: skip


def cases():
    """Every stage by epochs, where the loader alone knows the number of steps; both kinds of loops by the others."""
    everything = {"pretraining": [*LIMITS], "ppo": ["epochs", "steps", "time"]}
    for stage in STAGES:
        for limit in everything.get(stage, ["epochs"]):
            marks = [pytest.mark.slow] if (stage, limit) in LIKE_OTHERS else []
            yield pytest.param(stage, limit, marks=marks)


@pytest.mark.parametrize(("stage", "limit"), list(cases()))
def test_a_run_that_was_stopped_is_one_that_was_not(stage, limit, data, parent, tmp_path, monkeypatch):
    cfg = compose("train", words_of(stage, limit, data, parent))
    whole = Watch()
    expected = train(cfg, tmp_path / "whole", whole, monkeypatch)
    assert expected["steps"] in (6, 7, 8) and whole.validated[-1] == expected["steps"]
    assert whole.validated == sorted(set(whole.validated)), "a step was validated twice"
    validated = [name.split("/", 2) for name in expected["validation"] if name.startswith("val/")]
    measures = {name[2] for name in validated if len(name) == 3}
    assert "loss" in measures and measures <= set(monitored_metrics.VALIDATED[cfg.stage._target_])

    watch = Watch()
    for stop in stops(expected["steps"], stage == "pretraining"):
        watch.stop = stop
        with pytest.raises(StoppedError, match=stop[0]):
            train(cfg, tmp_path / "resumed", watch, monkeypatch)
    found = train(cfg, tmp_path / "resumed", watch, monkeypatch)
    for part in expected:
        assert same(found[part], expected[part]), part
    assert watch.rows == whole.rows
    assert set(watch.validated) == set(whole.validated)
