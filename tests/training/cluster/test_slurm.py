"""Jobs of Slurm on a Slurm of one node that the tests start themselves; skipped where Debian's is not installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.training.cluster.one_node import missing, slurm
from tests.training.test_launch import MORE, ROOT, SMALL, losses
from tests.training.test_train import wait_for

pytest.importorskip("submitit")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

LONG = ["trainer.max_steps=100", "trainer.checkpoint_every_n_steps=1"]
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
    assert "3 jobs, 1 failed, best first" in done.stdout
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


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_that_time_runs_out_for_is_queued_again_and_goes_on_exactly(words, environment, tmp_path, devices):
    """SIGUSR2 to every process of the job's steps, as Slurm sends it before the limit, torchrun's among them."""
    more = [*words, *LONG, f"trainer.devices={devices}"]
    finished(train(*more, f"hydra.run.dir={tmp_path}/whole"), environment)
    line = train(*more, *AS_JOB, f"hydra.run.dir={tmp_path}/cut")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    wait_for(lambda: any((tmp_path / "cut").glob("checkpoints/step-*.ckpt.json")), process)
    (job,) = asked(environment, "squeue", "--noheader", "--format=%i", "--states=RUNNING").split()
    asked(environment, "scancel", "--signal=USR2", job)
    assert process.wait(timeout=400) == 0, (tmp_path / "log").read_text()
    told = (tmp_path / "log").read_text()
    assert told.count("saving at the end of this step") == devices and "queued again (1 of at most 50 times)" in told
    assert "resumed from" in told and json.loads((tmp_path / "cut/.slurm/requeues.json").read_text()) == {"requeued": 1}
    assert "Restarts=1" in asked(environment, "scontrol", "show", "job", job)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


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
