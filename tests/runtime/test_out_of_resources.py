"""Memory and disk that run out are told in one line, with what to change and what is kept; no half file stays."""

from __future__ import annotations

import errno
import importlib
import logging
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lit_llm.backbone.weights import write_tensors
from lit_llm.checkpointing.resume import find_checkpoint
from lit_llm.config.command_line import command, compose, whole_files
from lit_llm.errors import UserError
from lit_llm.generation.command import Generate
from lit_llm.runtime import atomic_files
from lit_llm.runtime.arguments import run_command
from lit_llm.runtime.atomic_files import NotWritten, clean_abandoned, folder_beside, write_json, write_text
from lit_llm.runtime.out_of_resources import OutOfMemory, one_line
from lit_llm.stages.pretraining import Pretraining
from lit_llm.training.train import run
from tests.chain_data import write_data

FORK = multiprocessing.get_context("fork")
SMALL = [
    "backbone.depth=2", "backbone.hidden_size=32", "backbone.max_positions=64", "tokenizer.vocab_size=300",
    "data.max_length=32", "data.micro_batch_size=2", "trainer.max_steps=6", "trainer.checkpoint_every_n_steps=2",
    "trainer.limit_val_batches=1", "trainer.accelerator=cpu", "trainer.precision=32-true", "evaluation.enabled=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return [*SMALL, f"data.path={folder}/raw_text", f"data.cache_dir={folder}/cache"]


class Dies(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def of_a_killed_worker() -> None:
    list(torch.utils.data.DataLoader(Dies(), num_workers=1))


def raises(error: BaseException) -> Any:
    def fail() -> None:
        raise error

    return fail


def wrapped() -> None:
    try:
        torch.empty(2**48)
    except RuntimeError as error:
        raise ValueError("while a step was taken") from error


MEMORY = {
    "torch": lambda: torch.empty(2**48),
    "numpy": lambda: np.empty(2**50),
    "python": lambda: bytearray(2**60),
    "wrapped": wrapped,
    "a killed worker": of_a_killed_worker,
    "a GPU": raises(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    "fork": raises(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))),
    "C++": raises(RuntimeError("std::bad_alloc")),
    "threads": raises(RuntimeError("can't start new thread")),
    "an import": raises(ImportError("libtorch_cpu.so: failed to map segment from shared object")),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_memory_that_ran_out_is_told_from_other_errors(kind: str) -> None:
    with pytest.raises(BaseException) as caught:
        MEMORY[kind]()
    told = one_line(caught.value, "lower data.micro_batch_size", "nothing is lost")
    assert isinstance(told, OutOfMemory)
    assert "\n" not in str(told)
    assert " GiB at most" in str(told)
    assert str(told).endswith("; lower data.micro_batch_size; nothing is lost")


@pytest.mark.parametrize("error", [ValueError("a"), RuntimeError("sizes 2 and 3 differ"), FileNotFoundError(2, "x")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert one_line(error) is None


def test_a_run_out_of_memory_names_what_to_change_and_what_is_kept(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Pretraining.loss

    def hungry(self: Pretraining, batch: Any) -> Any:
        if self.trainer.global_step == 3:
            torch.empty(2**48)
        return loss(self, batch)

    monkeypatch.setattr(Pretraining, "loss", hungry)
    with pytest.raises(UserError) as caught:
        run(compose("train", words), tmp_path)
    told = str(caught.value)
    assert "\n" not in told
    for part in ("out of memory", "lower data.micro_batch_size=2, data.max_length=32", "gradient_checkpointing=true",
                 f"step-000000002.ckpt is kept, resume={tmp_path} goes on from it"):  # fmt: skip
        assert part in told
    monkeypatch.undo()
    run(compose("train", [*words, f"resume={tmp_path}"]), tmp_path)


def test_a_script_out_of_memory_names_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    def hungry(_: Generate) -> None:
        torch.empty(2**48)

    with pytest.raises(SystemExit) as stopped:
        run_command(Generate, hungry, ["model=x", "prompt=y"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: out of memory")
    assert "lower samples or lower max_new_tokens or take a smaller model" in told or "lower max_new_tokens" in told


COMMANDS = {  # each that loads a model, and what it calls for its work
    "lit_llm.generation.command": ("run", ["model=x", "prompt=y"]),
    "lit_llm.generation.chat": ("run", ["model=x"]),
    "lit_llm.training.evaluate_command": ("run", ["run=x"]),
    "lit_llm.feedback.web.command": ("run", ["model=x", "prompts=y"]),
    "benchmarks.command": ("command", ["generation"]),
    "lit_llm.lineage.verification": ("run", ["model=x"]),
}


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_tells_in_one_line_that_memory_ran_out(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work, words = COMMANDS[module]
    found = importlib.import_module(module)
    monkeypatch.setattr(found, work, lambda *_: torch.empty(2**48))
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as stopped:
        found.main()
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: out of memory, the process had ") and told.count("\n") == 1 and "smaller" in told


@pytest.mark.parametrize("name", ["train", "pipeline"])
def test_so_do_run_and_pipeline(
    name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Wherever they are: here in what both begin with, before any run is there."""
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module("lit_llm.training.command" if name == "train" else "lit_llm.pipeline.command")
    monkeypatch.setattr(module, "execute" if name == "train" else "plan", lambda *_: torch.empty(2**48))
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.setattr(logging.root, "handlers", [])  # Hydra's come, and go with the test
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        command(name, module.job, words if name == "train" else [])
    assert stopped.value.code == 2
    told = [line for line in capsys.readouterr().err.splitlines() if "Traceback" in line or line.startswith("error")]
    assert len(told) == 1 and told[0].startswith("error: out of memory")


def with_files_of_at_most(size: int, work: Any, *arguments: Any) -> str:
    """What a process says whose files may not grow beyond ``size`` bytes: a full disk, as the system tells it."""
    answers = FORK.Queue()

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            work(*arguments)
            answers.put("done")
        except UserError as error:
            answers.put(str(error))
        except BaseException as error:
            answers.put(f"{type(error).__name__}, no line: {error}")

    process = FORK.Process(target=child)
    process.start()
    told: str = answers.get(timeout=120)
    process.join(60)
    return told


def test_a_full_disk_ends_a_run_in_one_line_and_leaves_nothing_half_written(words: list[str], tmp_path: Path) -> None:
    """Wherever it is full: the first file that is too large is another each time. With room again the run goes on."""
    run(compose("train", [*words, "trainer.max_steps=2"]), tmp_path / "whole")
    files = [path for path in (tmp_path / "whole").rglob("*") if path.is_file() and not path.name.startswith("events.")]
    sizes = sorted({path.stat().st_size for path in files})[:-1]  # files up to the largest have room
    for number, size in enumerate({0, *sizes[len(sizes) // 2 :: 3]}):
        folder = tmp_path / str(number)
        told = with_files_of_at_most(size, run, compose("train", words), folder)
        assert "cannot be written" in told and "\n" not in told, told
        assert not [path for path in tmp_path.rglob("*") if path.name.startswith(atomic_files.TEMPORARY)]
    before = {path: path.read_bytes() for path in (tmp_path / "whole").rglob("*.ckpt*")}
    told = with_files_of_at_most(0, run, compose("train", [*words, f"resume={tmp_path}/whole"]), tmp_path / "whole")
    assert "cannot be written" in told
    assert {path: path.read_bytes() for path in before} == before
    assert find_checkpoint(tmp_path / "whole") is not None
    run(compose("train", [*words, f"resume={tmp_path}/whole"]), tmp_path / "whole")


def test_weights_on_a_full_disk(tmp_path: Path) -> None:
    """The library tells the system's error in words of its own."""
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.zeros(10)})
    before = path.read_bytes()
    told = with_files_of_at_most(4096, write_tensors, path, {"a": torch.zeros(10_000)})
    assert told.startswith(f"{path}: cannot be written (")
    assert "arge" in told
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_hydras_files_are_kept_on_a_full_disk(tmp_path: Path) -> None:
    import hydra.core.utils

    whole_files()
    cfg = OmegaConf.create(["a=1", "b=2"])
    hydra.core.utils._save_config(cfg, "overrides.yaml", tmp_path)
    assert (tmp_path / "overrides.yaml").read_text() == OmegaConf.to_yaml(cfg)
    longer = OmegaConf.create(["c" * 10_000])
    told = with_files_of_at_most(100, hydra.core.utils._save_config, longer, "overrides.yaml", tmp_path)
    assert "overrides.yaml: cannot be written" in told
    assert (tmp_path / "overrides.yaml").read_text() == OmegaConf.to_yaml(cfg)


def test_what_a_killed_process_left_is_cleaned_at_the_next_write(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib\nfrom lit_llm.runtime.atomic_files import beside, folder_beside\n"
        "here = pathlib.Path(sys.argv[1])\nwith beside(here / 'a') as file, folder_beside(here / 'b') as folder:\n"
        "    file.write_text('half'); (folder / 'c').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    host = "".join(filter(str.isalnum, socket.gethostname()))
    others = [
        tmp_path / f"{atomic_files.TEMPORARY}{name}" for name in (f"mine.{host}-{os.getpid()}-abc", "x.far-1-abc")
    ]
    for path in others:  # of a process that lives, and of another machine: they may still write
        path.touch()
    write_text(tmp_path / "d", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"d", *(path.name for path in others)}
    clean_abandoned(tmp_path / "not there")


def test_a_folder_is_whole_or_absent_and_the_faster_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folder_beside(tmp_path / "a") as folder:
        (folder / "x").touch()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with folder_beside(tmp_path / "a") as folder:
        (folder / "x").write_text("slow")
        with folder_beside(tmp_path / "a") as other:
            (other / "x").write_text("fast")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "x").read_text() == "fast"


def test_json_of_half_a_surrogate_pair_is_written_and_read(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "\ud83d"})
    assert "\\ud83d" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_the_system_s_words_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten, match="quota exceeded"):
        write_text(tmp_path / "a", "b")
    with pytest.raises(NotWritten, match="quota exceeded"):
        write_tensors(tmp_path / "c", {"a": torch.zeros(2)})
    assert not list(tmp_path.iterdir())
