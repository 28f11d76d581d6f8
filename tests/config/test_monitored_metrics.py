"""What a callback waits for is logged, or named before the first step; no stage needs a validation at its end."""

import lightning as L
import pytest

from lit_llm.config import monitored_metrics
from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.errors import UserError
from lit_llm.training.train import run
from tests.training.test_exact_resume_of_stages import STAGES, data, parent, words_of  # noqa: F401  fixtures

# A run of each loop, and the stages that test_exact_resume_of_stages asks the same of with -m slow alone.
EVERY_DAY = ("pretraining", "flag_classification", "kto", "ppo")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "stage", [pytest.param(one, marks=[pytest.mark.slow] * (one not in EVERY_DAY)) for one in STAGES]
)
def test_every_stage_runs_unexamined_and_logs_what_the_table_says(stage, data, parent, tmp_path, monkeypatch):  # noqa: F811
    fit, logged = L.Trainer.fit, []

    def watched(trainer, *given, **named):
        fit(trainer, *given, **named)
        logged.extend(name for name in trainer.callback_metrics if name.startswith("val/"))

    monkeypatch.setattr(L.Trainer, "fit", watched)
    words = [word for word in words_of(stage, "steps", data, parent) if not word.startswith("trainer.max_steps")]
    words += ["trainer.max_steps=1", "trainer.val_check_interval=1", "evaluation.enabled=false"]
    cfg = compose("train", [*words, "callbacks.checkpoints.monitor=val/loss"])
    assert run(cfg, tmp_path)["steps"] == 1 and (tmp_path / "checkpoints/best.ckpt").is_file()
    measures = {name.split("/", 2)[2] for name in logged if name.count("/") > 1}
    assert "loss" in measures and "val/loss" in logged
    assert measures <= set(monitored_metrics.VALIDATED[cfg.stage._target_])


def finding(command, *words):
    with pytest.raises(UserError) as caught:
        check(command, hydra_words(command, list(words)))
    return str(caught.value)


@pytest.mark.parametrize("name", ["val/los", "val/general/los", "val/generl/loss", "train/loss", "val_loss"])
def test_a_name_that_nothing_logs_is_one_line(name):
    line = f"callbacks.checkpoints.monitor={name}: nothing logs it; there are val/loss, val/general/loss, "
    assert finding("train", line.split(":")[0]) == f"{line}val/general/bits_per_byte"


def test_in_a_stage_of_a_pipeline_too():
    word = "stages.dpo.callbacks.checkpoints.monitor=val/rankings/accuracy"  # a reward model's
    assert finding("pipeline", word).startswith(f"{word}: nothing logs it; there are val/loss, val/rankings/loss, ")


def test_a_validation_that_is_off_and_a_callback_of_one_s_own():
    off = ["callbacks.checkpoints.monitor=val/loss", "trainer.limit_val_batches=0"]
    assert "there is none with trainer.limit_val_batches=0" in finding("train", *off)
    own = "+callbacks.stop={_target_:lightning.pytorch.callbacks.EarlyStopping,monitor:%s}"
    words = ["allowed_targets=[lightning.pytorch.callbacks.]"]
    assert finding("train", *words, own % "val_loss").startswith("callbacks.stop.monitor=val_loss: nothing logs it")
    for name in ("train/loss", "val/loss", "val/general_web/bits_per_byte"):
        check("train", hydra_words("train", [*words, own % name]))
