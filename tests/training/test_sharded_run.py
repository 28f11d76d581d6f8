"""The command with a model spread over processes: killed in the middle, resumed, its folder written by all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lit_llm.backbone.weights import weight_files
from lit_llm.checkpointing.resume import find_checkpoint

from .test_train import ROOT, SMALL, command

MARK = "LIT_LLM_TEST_RUN"  # in the environment of the processes that a test has started


def started(words: list[str], mark: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: mark}
    return subprocess.Popen(command(words), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers(mark: str) -> dict[int, int]:
    """Process ids by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            told = dict(each.split("=", 1) for each in (place / "environ").read_text().split("\0") if "=" in each)
        except (OSError, UnicodeDecodeError):
            continue
        if told.get(MARK) == mark and "TORCHELASTIC_RUN_ID" in told:
            found[int(told["RANK"])] = int(place.name)
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for file in weight_files(folder / "model") for name, each in load_file(file).items()}


@pytest.mark.slow
def test_a_killed_process_ends_the_command_in_seconds_and_resume_goes_on(data, tmp_path):
    """A run of two processes that was killed, and gone on with, has bit for bit the weights of one that was not."""
    kept = ["callbacks.checkpoints.asynchronous=true", "trainer.checkpoint_every_n_steps=1", "logger=none"]
    words = [*SMALL, *kept, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache", "evaluation.enabled=false",
             "trainer.global_batch_size=4", "trainer.max_steps=30"]  # fmt: skip
    folder, mark = tmp_path / "run", str(tmp_path)
    process = started([*words, "trainer=fsdp", f"hydra.run.dir={folder}"], mark)
    end = time.monotonic() + 300
    while not (folder / "checkpoints/step-000000003.ckpt").is_dir():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.05)
    os.kill(workers(mark)[1], signal.SIGKILL)
    killed = time.monotonic()
    _, said = process.communicate(timeout=60)
    newest = find_checkpoint(folder)
    assert time.monotonic() - killed < 30 and process.returncode == 2 and not workers(mark)
    assert newest is not None and f"{newest} is kept, resume={folder} goes on from it" in said.splitlines()[-1]
    assert "Traceback" not in said and "was ended by SIGKILL" in said
    for again in ([f"resume={folder}", f"hydra.run.dir={folder}"], [f"hydra.run.dir={tmp_path / 'whole'}"]):
        process = started([*words, "trainer=fsdp", *again], mark)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    one, two = weights(tmp_path / "whole"), weights(folder)
    assert one.keys() == two.keys() and (folder / "model/lineage.json").is_file()
    for name, weight in one.items():
        assert torch.equal(two[name], weight), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "kind", "rank", "start"),
    [("ddp", "row", 1, "ours"), ("fsdp", "row", 0, "ours"), ("fsdp", "memory", 1, "ours"), ("tp", "memory", 0, "ours"),
     ("fsdp", "row", 1, "torchrun")],
)  # fmt: skip
def test_what_one_process_meets_ends_all_in_seconds_and_is_told(way, kind, rank, start, data, tmp_path):
    """And not only that a process is lost, which is what the others see of it."""
    fault = f"+callbacks.fault={{_target_:tests.training.faults.Fault,kind:{kind},rank:{rank}}}"
    words = [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache", "evaluation.enabled=false",
             "logger=none", "trainer.checkpoint_every_n_steps=1", "trainer.max_steps=30", f"trainer={way}",
             "trainer.devices=2", "backbone.num_heads=2", "allowed_targets=[tests]", fault,
             f"hydra.run.dir={tmp_path}/run"]  # fmt: skip
    line = command(words)
    if start == "torchrun":
        line[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert time.time() - float((tmp_path / "run/faulted").read_text()) < 30
    assert done.returncode != 0 and (start == "torchrun" or "Traceback" not in done.stderr)  # torchrun has its own
    errors = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
    said = {"row": "rows.jsonl:7: is no comparison", "memory": "out of memory"}[kind]
    assert said in errors[0] and len(errors) <= (1 if start == "ours" else 2), done.stderr
    assert find_checkpoint(tmp_path / "run") is not None


@pytest.mark.slow
@pytest.mark.parametrize("who", ["launcher", "group"])
def test_nothing_outlives_a_killed_command(who, data, tmp_path):
    """Whoever is killed: the command alone, or its whole group, in which the processes of the run are not."""
    words = [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache", "evaluation.enabled=false",
             "logger=none", "trainer.checkpoint_every_n_steps=1", "trainer.max_steps=100000", "trainer=fsdp",
             f"hydra.run.dir={tmp_path}/run"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", MARK: str(tmp_path)}
    for ready in (lambda: len(workers(str(tmp_path))) == 2, lambda: any(tmp_path.glob("run/checkpoints/step-*"))):
        again = ["resume=auto"] if (tmp_path / "run").exists() else []
        process = subprocess.Popen(command([*words, *again]), env=environment, start_new_session=True)
        end = time.monotonic() + 300
        while not ready():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        (os.kill if who == "launcher" else os.killpg)(process.pid, signal.SIGKILL)
        process.wait()
        end = time.monotonic() + 10
        while workers(str(tmp_path)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not workers(str(tmp_path))
