"""Lines in a log file, a bar in a terminal."""

import logging
import sys
from pathlib import Path

import pytest
from training_run import Data, tiny_stage, trainer_for

from lit_llm.callbacks.progress import Progress

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
    fit(tmp_path, Progress(refresh_seconds=0.0))
    shown = capsys.readouterr().err
    assert "4/4" in shown and "loss" in shown


def test_disabled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(every_seconds=0.0)
    progress.disable()
    fit(tmp_path, progress)
    assert "pretraining" not in capsys.readouterr().err
