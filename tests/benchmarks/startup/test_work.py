"""What waits for the first step, and what is said when it never comes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks.startup.first_step import FirstStep
from benchmarks.startup.work import _WITHOUT, Settings, Start, text_of

from lit_llm.errors import UserError


def test_the_first_step_and_no_other_is_written_down(tmp_path: Path) -> None:
    callback, trainer = FirstStep(str(tmp_path / "first.json")), SimpleNamespace(global_step=0)
    given: Any = trainer
    callback.on_train_batch_end(given)
    assert not callback.file.exists()  # a batch that was only accumulated
    trainer.global_step = 1
    callback.on_train_batch_end(given)
    first = json.loads(callback.file.read_text())
    trainer.global_step = 2
    callback.on_train_batch_end(given)
    assert json.loads(callback.file.read_text()) == first and first["cpu"] > 0


def test_packages_are_hidden_from_those_who_look_for_them() -> None:
    code = _WITHOUT.format(hidden=("tokenizers",)) + (
        "print(importlib.util.find_spec('tokenizers'), importlib.util.find_spec('jinja2').name)\n"
        "try: importlib.metadata.version('tokenizers')\n"
        "except importlib.metadata.PackageNotFoundError: print('none')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "None jinja2\nnone\n"


@pytest.mark.slow  # it starts a training
def test_the_command_is_timed_to_its_first_step_and_ended_there() -> None:
    words = "stage=pretraining backbone.depth=1 trainer.accelerator=cpu"
    start, began = Start(Settings(words=words, characters=20_000, threads=1), hidden=False), time.time()
    start()
    seconds, cpu = start.numbers().values()
    assert 0.5 < seconds <= time.time() - began and cpu > 0.5


def test_a_command_that_fails_is_named_with_its_last_line() -> None:
    with pytest.raises(UserError, match=r"--mutlirun.*no step; .*did you mean --multirun"):  # told without torch
        Start(Settings(words="--mutlirun"), hidden=False)()


def test_the_text_is_as_long_as_was_asked_for() -> None:
    assert len(text_of(50_000)) == 50_000
