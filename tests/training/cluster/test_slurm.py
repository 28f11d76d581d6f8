"""Jobs of Slurm on a Slurm that the tests start themselves; skipped where Debian's is not installed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.cluster.slurm_here import missing, slurm
from tests.training.test_launch import MORE, ROOT, SMALL, losses
from tests.training.test_train import wait_for

pytest.importorskip("submitit")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

LONG = ["trainer.max_steps=40", "trainer.checkpoint_every_n_steps=1"]
AS_JOB = ["trainer.launcher=slurm", "trainer.slurm.poll_seconds=0.5", "trainer.slurm.minutes=30"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm")) as found:
        yield {**found, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def words(data):
    return [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache", *MORE]


def train(*words, before=()):
    return [*before, sys.executable, str(ROOT / "scripts/train.py"), *words]


def finished(line, environment):
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def weights(folder):
    return load_file(folder / "model/model.safetensors")


def asked(environment, *line):
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_sweep_is_one_array_and_ends_with_its_leaderboard(words, environment, tmp_path):
    sweep = ["-m", "optimizer.lr=1e-3,-1,3e-3", f"hydra.sweep.dir={tmp_path}/jobs"]
    launcher = ["hydra/launcher=slurm", "hydra.launcher.poll_seconds=0.5", "hydra.launcher.minutes=30"]
    done = finished(train(*words, *sweep, *launcher), environment)
    jobs = {row["job"]: row for row in json.loads((tmp_path / "jobs/leaderboard.json").read_text())["jobs"]}
    assert "3 jobs, 1 failed, best first" in done.stdout and ": running" in done.stdout
    assert done.stdout.count("(3 of 3 done)") == 1
    assert [jobs[number]["status"].partition(":")[0] for number in "012"] == ["finished", "failed", "finished"]
    (script,) = (path for path in (tmp_path / "jobs/.slurm").glob("*_submission.sh") if not path.is_symlink())
    array = script.name.partition("_")[0]
    assert "#SBATCH --array=0-2%3" in script.read_text() and "#SBATCH --signal=USR2@120" in script.read_text()
    assert all(list((tmp_path / "jobs/.slurm").glob(f"{array}_{number}_*.out")) for number in range(3))
    here = finished(train(*words, "optimizer.lr=1e-3", f"hydra.run.dir={tmp_path}/here"), environment)
    assert (
        here.returncode == 0
        and jobs["0"]["objective"] == json.loads((tmp_path / "here/metrics.json").read_text())["objective"]
    )


@pytest.fixture(scope="module")
def whole(words, environment, tmp_path_factory):
    """A run of so many devices that nothing stops."""
    made = {}

    def run(devices):
        if devices not in made:
            made[devices] = tmp_path_factory.mktemp("whole") / "run"
            more = [*LONG, f"trainer.devices={devices}", f"hydra.run.dir={made[devices]}"]
            finished(train(*words, *more), environment)
        return made[devices]

    return run


def equal(one, two):
    one, two = weights(one), weights(two)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


class Waiting:
    """A command that waits for its job, which has written a checkpoint."""

    def __init__(self, words, folder, environment, log, more=()):
        with log.open("a") as file:
            line = train(*words, *AS_JOB, *more, f"hydra.run.dir={folder}")
            self.process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        self.folder, self.environment, self.log = folder, environment, log
        wait_for(lambda: any(folder.glob("checkpoints/step-*.ckpt.json")), self.process)
        (self.job,) = asked(environment, "squeue", "--noheader", "--format=%i", "--states=RUNNING").split()

    def ends(self):
        """Its exit code, and what it said."""
        return self.process.wait(timeout=400), self.log.read_text()

    def restarts(self):
        (found,) = re.findall(r"Restarts=(\d+)", asked(self.environment, "scontrol", "show", "job", self.job))
        return int(found)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_that_time_runs_out_for_is_queued_again_and_goes_on_exactly(
    words, environment, whole, tmp_path, devices
):  # fmt: skip
    """SIGUSR2 to every process of the job's steps, as Slurm sends it before the limit, torchrun's among them."""
    more = [*words, *LONG, f"trainer.devices={devices}"]
    waiting = Waiting(more, tmp_path / "cut", environment, tmp_path / "log")
    asked(environment, "scancel", "--signal=USR2", waiting.job)
    code, told = waiting.ends()
    assert code == 0, told
    assert told.count("saving at the end of this step") == devices and "queued again (1 of at most 50 times)" in told
    assert "resumed from" in told and json.loads((tmp_path / "cut/.slurm/result.requeues").read_text())["requeued"] == 1
    assert waiting.restarts() == 1 and equal(whole(devices), tmp_path / "cut")


def test_slurm_itself_sends_the_signal_before_the_limit(words, environment, whole, tmp_path):
    """The run has few steps, and is held until then: Slurm wakes what it sends a signal to. Less than these minutes
    would leave no time for a first step on a slow machine."""
    limit = ["trainer.slurm.minutes=3", "trainer.slurm.signal_seconds=90", "trainer.devices=1"]
    waiting = Waiting([*words, *LONG], tmp_path / "cut", environment, tmp_path / "log", limit)
    (task,) = (path for path in Path("/proc").glob("[0-9]*") if runs_task(path, tmp_path))
    os.kill(int(task.name), signal.SIGSTOP)
    code, told = waiting.ends()
    assert code == 0 and "SIGUSR2: saving at the end of this step" in told and "resumed from" in told, told
    assert "queued again (1 of at most 50 times)" in told and waiting.restarts() >= 1  # more where the machine is slow
    assert "TimeLimit=00:03:00" in asked(environment, "scontrol", "show", "job", waiting.job)
    assert equal(whole(1), tmp_path / "cut")


def runs_task(process, folder):
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    python = words[0].endswith(b"python") and b"submitit.core._submit" in words
    return python and any(str(folder).encode() in word for word in words)


@pytest.mark.parametrize("devices", [1, 2])
def test_ctrl_c_at_the_waiting_command_saves_and_the_same_folder_goes_on(words, environment, whole, tmp_path, devices):
    more = [*words, *LONG, f"trainer.devices={devices}"]
    waiting = Waiting(more, tmp_path / "cut", environment, tmp_path / "log")
    before = newest(tmp_path / "cut")
    waiting.process.send_signal(signal.SIGINT)
    code, told = waiting.ends()
    assert code == 130 and "Traceback" not in told and f"resume={tmp_path}/cut" in told, told
    assert "saving at the end of this step" in told and newest(tmp_path / "cut") > before
    finished(train(*more, *AS_JOB, f"resume={tmp_path}/cut"), environment)
    assert equal(whole(devices), tmp_path / "cut")


def newest(folder):
    return max(path.name for path in folder.glob("checkpoints/step-*.ckpt"))


def test_a_job_that_slurm_takes_away_is_waited_for(words, environment, whole, tmp_path):
    """As for a job of more weight: SIGTERM, and queued again. The run saves, and the command is not told of an end."""
    waiting = Waiting([*words, *LONG, "trainer.devices=2"], tmp_path / "cut", environment, tmp_path / "log")
    asked(environment, "scontrol", "requeue", waiting.job)
    code, told = waiting.ends()
    # SIGTERM from Slurm, or first SIGINT from the process that started these, which heard of it too.
    assert code == 0 and "saving at the end of this step" in told and "resumed from" in told, told
    assert waiting.restarts() == 1 and equal(whole(2), tmp_path / "cut")


def test_a_command_that_was_killed_finds_its_job_again(words, environment, tmp_path):
    more = [*words, *LONG, "trainer.max_steps=120"]
    waiting = Waiting(more, tmp_path / "run", environment, tmp_path / "log")
    waiting.process.kill()
    waiting.process.wait()
    done = finished(train(*more, *AS_JOB, f"resume={tmp_path}/run"), environment)
    assert f"job {waiting.job}, which an earlier command submitted, is there and is waited for" in done.stdout
    assert len(list((tmp_path / "run/.slurm").glob("*_submission.sh"))) == 1 and waiting.restarts() == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["steps"] == 120


def test_srun_s_tasks_are_the_run_s_processes(words, environment, tmp_path):
    finished(train(*words, "trainer.devices=2", f"hydra.run.dir={tmp_path}/ours"), environment)
    srun = ["srun", "--ntasks=2", "--ntasks-per-node=2"]
    finished(train(*words, "trainer.devices=auto", f"paths.outputs={tmp_path}/theirs", before=srun), environment)
    (theirs,) = (tmp_path / "theirs/pretraining").iterdir()
    assert theirs.name.startswith("slurm-") and losses(theirs) == losses(tmp_path / "ours")
    line = train(*words, "trainer.devices=1", f"paths.outputs={tmp_path}/none", before=srun)
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    (said,) = (each for each in done.stderr.splitlines() if each.startswith("error: "))
    assert done.returncode == 2 and "trainer.devices=1: srun started 2 processes on this node" in said


def test_what_no_job_can_have_is_told_before_it_is_submitted(words, environment, tmp_path):
    line = train(*words, *AS_JOB, "trainer.slurm.partition=none", f"hydra.run.dir={tmp_path}/run")
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    (said,) = (each for each in done.stderr.splitlines() if each.startswith("error: "))
    assert done.returncode == 2 and "invalid partition" in said and "Traceback" not in done.stderr


# Two nodes


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm2"), cpus=1, count=2) as found:
        yield {**found, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def test_a_job_of_two_nodes_makes_the_run_of_two_processes(words, two_nodes, tmp_path):
    finished(train(*words, "trainer.devices=2", f"hydra.run.dir={tmp_path}/one"), two_nodes)
    done = finished(train(*words, *AS_JOB, "trainer.num_nodes=2", f"hydra.run.dir={tmp_path}/two"), two_nodes)
    (job,) = re.findall(r"^job (\d+) of slurm", done.stdout, re.MULTILINE)
    shown = asked(two_nodes, "scontrol", "show", "job", job)
    assert "NumNodes=2" in shown and re.search(r"\bNodeList=\S+[,\[]", shown)
    assert equal(tmp_path / "one", tmp_path / "two") and losses(tmp_path / "one") == losses(tmp_path / "two")


def test_a_search_of_runs_on_two_nodes_is_pruned_in_all_their_processes(words, two_nodes, tmp_path):
    """By a pruner that ends every run: the processes of both nodes leave at the first validation."""
    pytest.importorskip("optuna")
    search = ["-m", "optimizer.lr=interval(1e-4,1e-3)", f"hydra.sweep.dir={tmp_path}/s", "hydra/sweeper=optuna",
              "hydra.sweeper.n_trials=1", "hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner",
              "+hydra.sweeper.pruner.upper=0.01", "hydra/launcher=slurm", "hydra.launcher.poll_seconds=0.5",
              "trainer.num_nodes=2", "trainer.val_check_interval=2"]  # fmt: skip
    done = finished(train(*words, *search), two_nodes)
    (job,) = json.loads((tmp_path / "s/leaderboard.json").read_text())["jobs"]
    assert job["status"].startswith("pruned after step 2, val/loss"), done.stdout
