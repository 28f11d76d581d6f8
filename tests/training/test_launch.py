"""Several processes, whoever starts them: torchrun, a node each by hand; and a signal before a limit of time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file

from lit_llm.config.command_line import compose
from lit_llm.errors import UserError
from lit_llm.runtime import distributed
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.distributed import LostProcess, is_told_by_the_first
from lit_llm.runtime.run_lock import InUse, RunLock
from lit_llm.training import launch as launching
from lit_llm.training import outcome
from lit_llm.training.launch import launch
from tests.processes import together
from tests.training.test_train import ROOT, SMALL, wait_for

MORE = ["trainer.accelerator=cpu", "trainer.global_batch_size=8", "evaluation.enabled=false", "logger=csv",
        "trainer.max_steps=4"]  # fmt: skip


@pytest.fixture(scope="module")
def words(data):
    return [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache", *MORE]


def losses(folder):
    """The training losses by step, of the CSV file."""
    (file,) = folder.rglob("metrics.csv")
    names, *rows = (line.split(",") for line in file.read_text().splitlines())
    at = {name: names.index(name) for name in ("step", "train/loss")}
    return {int(row[at["step"]]): float(row[at["train/loss"]]) for row in rows if row[at["train/loss"]]}


def environment(**more):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "TORCHELASTIC_"))}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


@pytest.mark.slow
def test_torchrun_s_own_processes_make_the_run_that_ours_do(words, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch(compose("train", [*words, "trainer.devices=2"]), tmp_path / "ours")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "scripts/train.py"]
    line = [*start, *words, "trainer.devices=auto", f"paths.outputs={tmp_path}/theirs"]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (theirs,) = (tmp_path / "theirs/pretraining").iterdir()
    assert losses(theirs) == losses(tmp_path / "ours") and len(losses(theirs)) == 4


def test_what_an_earlier_start_left_is_not_taken_for_this_one_s(tmp_path, monkeypatch):
    """torchrun tells its processes the same names at each start: one that failed must not end the next."""
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "0",
                        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    begun = []

    def first(ends):
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setattr(launching, "_prepare", ends)
        try:
            launching.prepare_once(None, tmp_path)
        finally:
            monkeypatch.setenv("RANK", "1")

    def refused(*_):
        raise UserError("no such file")

    monkeypatch.setattr(launching, "agreed", lambda *_: "one start")
    with pytest.raises(UserError):
        first(refused)
    with pytest.raises(SystemExit):
        launching.prepare_once(None, tmp_path)
    monkeypatch.setattr(launching, "agreed", lambda *_: "another")
    monkeypatch.setattr(launching.time, "sleep", lambda _: first(lambda *_: begun.append(1)))
    launching.prepare_once(None, tmp_path)
    assert begun == [1], "it waited for the first process of its own start"


def begins(folder: Path) -> float:
    """When a process came to its training, after what the first one does before."""
    from lit_llm.runtime.distributed import is_first_process
    from lit_llm.runtime.run_folder import RunFolder
    from lit_llm.training import train

    evaluation, parts, trainer = MagicMock(), MagicMock(), MagicMock()
    evaluation.before.side_effect = lambda: time.sleep(2) if is_first_process() else None
    parts.cfg.resume, parts.stage.sharding = None, None
    for name in ("announce", "tell_data", "foresee"):
        setattr(train, name, lambda *_: None)
    begun = []
    trainer.fit.side_effect = lambda *_, **__: begun.append(time.monotonic())
    train.fit(parts, trainer, RunFolder(folder), evaluation)
    return begun[0]


def test_no_process_looks_for_the_others_before_the_first_one_is_ready_to_train(tmp_path):
    """They would wait for half an hour; a corpus may be tokenized, or a large model evaluated, for longer."""
    first, second = together(2, begins, tmp_path)
    assert 0 <= second - first < 1


def test_that_a_process_is_lost_is_not_told_over_why_it_ended(tmp_path):
    """Whichever of the two is written first: the other processes hear of the end of one before it is over."""

    def ends(error):
        def run():
            raise error

        with pytest.raises(SystemExit):
            outcome.written(tmp_path / "result.json", run, str, writes=False)

    for errors in ([UserError("row 7 is broken"), LostProcess("process 0")],
                   [LostProcess("process 0"), UserError("row 7 is broken"), LostProcess("process 2")]):  # fmt: skip
        for error in errors:
            ends(error)
        with pytest.raises(UserError, match=r"^row 7 is broken$"):
            outcome.taken(tmp_path / "result.json")
        (tmp_path / "result.json").unlink()
    ends(LostProcess("process 0"))
    with pytest.raises(UserError, match=r"^process 0$"):
        outcome.taken(tmp_path / "result.json")


def fails(folder: Path, words: list[str]) -> bool:
    return is_told_by_the_first(words[int(os.environ["RANK"])], folder)


def test_what_all_processes_meet_is_told_once_and_what_one_meets_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "SAME_ERROR", 2.0)
    same, other = ["the disk is full"] * 2, ["process 1 is lost", "row 7 is broken"]
    assert together(2, fails, tmp_path / "same", same) == [False, True]
    assert together(2, fails, tmp_path / "other", other) == [False, False]


def test_a_second_start_is_refused_while_the_processes_of_the_first_are_starting(words, tmp_path):
    """They do not hold the folder yet, and what they are about to read stays."""
    write_json(tmp_path / ".launch/result.json", {})
    with RunLock(tmp_path / launching.ALONE), pytest.raises(InUse, match=rf"^{tmp_path}: in use by process \d+ on"):
        launch(compose("train", [*words, "trainer.devices=2"]), tmp_path)
    assert (tmp_path / ".launch/result.json").is_file()


@pytest.mark.slow
def test_a_second_start_by_torchrun_goes_on_where_the_first_was_refused(words, tmp_path):
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29517"]
    line = [*start, "scripts/train.py", *words, "trainer.devices=auto", f"hydra.run.dir={tmp_path}/run"]
    names = {"TORCHELASTIC_RUN_ID": "none", "MASTER_PORT": "29517", "TORCHELASTIC_RESTART_COUNT": "0"}
    write_json(tmp_path / "run/.launch/prepared.json", {"start": {**names, "SLURM_RESTART_COUNT": None}, "done": False})
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(losses(tmp_path / "run")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("word", ["trainer.devices=1", "--multirun"])
def test_what_does_not_fit_torchrun_is_one_line_of_the_first_process(words, tmp_path, word):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "scripts/train.py"]
    line = [*start, *words, "trainer.devices=auto", word, f"paths.outputs={tmp_path}"]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    lines = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
    said = "a sweep starts those of its runs itself" if word == "--multirun" else "give trainer.devices=2 (or auto)"
    assert done.returncode != 0 and len(lines) == 1 and said in lines[0] and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_signal_before_the_limit_stops_two_processes_behind_one_checkpoint(words, tmp_path):
    """SIGUSR2 to the command alone; to every process of the job, as Slurm sends it, in the test of Slurm."""
    more = ["trainer.devices=2", "trainer.max_steps=100000", "trainer.checkpoint_every_n_steps=1"]
    line = [sys.executable, "scripts/train.py", *words, *more, f"hydra.run.dir={tmp_path}"]
    process = subprocess.Popen(line, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any(tmp_path.glob("checkpoints/step-*.ckpt.json")), process)
    process.send_signal(signal.SIGUSR2)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGUSR2 and "Traceback" not in errors and "resume=" in errors
    assert list(tmp_path.glob("checkpoints/step-*.ckpt")) and not (tmp_path / "model").exists()


# Two nodes: network namespaces with an address each, joined by a cable


@pytest.fixture
def nodes():
    """The names of two namespaces, 10.77.0.1 and 10.77.0.2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("takes root and ip")
    name = f"lit{os.getpid() % 100000}"
    ends = [f"{name}a", f"{name}b"]
    made = subprocess.run(["ip", "netns", "add", ends[0]], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no namespaces here: {made.stderr.strip()}")
    try:
        subprocess.run(["ip", "netns", "add", ends[1]], check=True)
        one, two = ends
        cable = f"ip link add {one} netns {one} type veth peer name {two} netns {two}"
        made = subprocess.run(cable.split(), capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"no cable here: {made.stderr.strip()}")
        for number, end in enumerate(ends, 1):
            inside = ["ip", "-n", end]
            subprocess.run([*inside, "addr", "add", f"10.77.0.{number}/24", "dev", end], check=True)
            subprocess.run([*inside, "link", "set", end, "up"], check=True)
            subprocess.run([*inside, "link", "set", "lo", "up"], check=True)
        yield ends
    finally:
        for end in ends:
            subprocess.run(["ip", "netns", "del", end], capture_output=True, check=False)


@pytest.mark.slow
def test_two_nodes_make_the_run_of_one(words, tmp_path, nodes, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch(compose("train", [*words, "trainer.devices=2"]), tmp_path / "one")
    line = [sys.executable, "scripts/train.py", *words, "trainer.num_nodes=2", f"hydra.run.dir={tmp_path}/two"]
    running = []
    for rank, node in enumerate(nodes):  # a namespace has ports of its own
        told = {"NODE_RANK": str(rank), "MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29551"}
        own = environment(GLOO_SOCKET_IFNAME=node, **told)
        with (tmp_path / f"{rank}.log").open("w") as log:
            inside = ["ip", "netns", "exec", node, *line]
            running.append(subprocess.Popen(inside, cwd=ROOT, env=own, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait(timeout=400) for process in running]
    assert codes == [0, 0], "\n".join(file.read_text() for file in tmp_path.glob("*.log"))
    assert losses(tmp_path / "two") == losses(tmp_path / "one") and len(losses(tmp_path / "two")) == 4
    one, two = (load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
