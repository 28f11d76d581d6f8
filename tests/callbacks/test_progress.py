"""Lines in a log file, a bar in a terminal."""

import logging
import re
import sys
from pathlib import Path

import pytest

from lit_llm.callbacks.progress import Progress, shown
from lit_llm.stages.pretraining import Pretraining
from tests.stages.training_run import Data, tiny_stage, trainer_for

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def fit(folder: Path, progress: Progress) -> None:
    trainer = trainer_for(folder, [], max_steps=4, accumulate_grad_batches=2, enable_checkpointing=False)
    trainer.callbacks.append(progress)  # type: ignore[attr-defined]
    trainer.fit(tiny_stage(), datamodule=Data(24))


def test_lines_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, Progress(every_seconds=0.0))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pretraining: step")]
    assert [line.split(",")[0].split()[-1] for line in lines] == ["1/4", "2/4", "3/4", "4/4", "4/4"]
    assert "loss " in lines[-1] and "\r" not in "".join(lines)


def test_quiet_between(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, Progress(every_seconds=60.0))
    assert capsys.readouterr().err.count("pretraining: step") == 1  # the end


def test_a_bar_in_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "66")
    monkeypatch.setattr(Pretraining, "log_training", lambda self, values: setattr(self, "latest", values | ROLLOUT))
    fit(tmp_path, Progress(refresh_seconds=0.0))
    bars = [bar.strip() for bar in capsys.readouterr().err.split("\r") if bar.startswith("pretraining")]
    assert max(map(len, bars)) <= 66, "one line, which the terminal does not break"
    assert re.search(r"100%.* 4/4 \d\d:\d\d<00:00, reward 0\.25, kl 1\.5$", bars[-1]), "a number is whole or not there"
    assert all("<" in bar for bar in bars), "the time left, to the last step"


ROLLOUT = {
    "train/loss": 0.1, "train/lr": 1e-5, "objective/scores": 0.25, "objective/kl": 1.5, "val/loss": -0.5,
    "objective/response_length": 31.0, "objective/truncated": 0.125, "train/tokens_per_second": 900.0,
}  # fmt: skip


def test_a_rollout_shows_reward_kl_length_and_the_share_that_was_cut() -> None:
    assert shown(ROLLOUT) == "reward 0.25, kl 1.5, length 31, cut 12%, val reward 0.5, lr 1e-05"
    assert shown({"train/loss": 0.5, "val/loss": 2.0}) == "loss 0.5, val 2"
    assert shown({"objective/scores": -0.0, "val/loss": 0.0}) == "reward 0, val reward 0", "0 has no sign"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_policy_s_line_and_bar_say_the_same(
    terminal: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(Pretraining, "log_training", lambda self, values: setattr(self, "latest", values | ROLLOUT))
    fit(tmp_path, Progress(every_seconds=0.0, refresh_seconds=0.0))
    assert "reward 0.25, kl 1.5, length 31, cut 12%" in capsys.readouterr().err


def test_disabled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(every_seconds=0.0)
    progress.disable()
    fit(tmp_path, progress)
    assert "pretraining" not in capsys.readouterr().err
