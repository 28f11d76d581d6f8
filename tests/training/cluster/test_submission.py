"""Jobs without a Slurm: what sbatch is told, what the queue's answers mean, and processes of this machine as jobs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_llm.config import schema
from lit_llm.config.command_line import compose
from lit_llm.config.conf_files import conf_folder
from lit_llm.config.slurm_keys import SlurmConfig
from lit_llm.config.yaml_files import load
from lit_llm.errors import UserError
from lit_llm.lineage.input_hash import without_names
from lit_llm.runtime.started_by import JOB
from lit_llm.training import outcome
from lit_llm.training.cluster import submission
from lit_llm.training.cluster.inside import in_job
from lit_llm.training.cluster.launcher import SlurmLauncher
from tests.training.test_launch import MORE, ROOT, SMALL
from tests.training.test_train import wait_for

pytest.importorskip("submitit")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Slurm's programs that note what they are called with; squeue says what the file queue holds."""
    place = tmp_path / "bin"
    place.mkdir()
    for name, does in {
        "sbatch": 'cp "$1" "$HERE/script"; echo Submitted batch job 70',
        "squeue": 'case "$*" in *%T*) cat "$HERE/queue";; *) cut -d" " -f1 "$HERE/queue";; esac',
        "scontrol": "true", "scancel": "true", "srun": "true",
    }.items():  # fmt: skip
        (place / name).write_text(f'#!/bin/sh\necho {name} "$@" >> "$HERE/calls"\n{does}\n')
        (place / name).chmod(0o755)
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    (tmp_path / "calls").touch()
    return tmp_path


def submitted(folder, count=3, **settings):
    results = [folder / f"result-{n}.json" for n in range(count)]
    told = SlurmConfig(poll_seconds=0.01, **settings)
    functions, asked = [(print, (n,)) for n in range(count)], [f"lr={n}" for n in range(count)]
    return submission.submit(functions, results, told, 2, "name", folder / "jobs", asked), told


def test_sbatch_is_told_what_the_settings_say(programs):
    jobs, _ = submitted(programs, partition="big", minutes=90, signal_seconds=45, gpus_per_node=8, mem_gb=1.5,
                        at_once=2, setup=["module load cuda"], options={"reservation": "night"})  # fmt: skip
    lines = (programs / "script").read_text().splitlines()
    wanted = ["array=0-2%2", "partition=big", "time=90", "signal=USR2@45", "nodes=2", "ntasks-per-node=1",
              "gpus-per-node=8", "mem=1536M", "reservation=night", "requeue"]  # fmt: skip
    assert {f"#SBATCH --{one}" for one in wanted} <= set(lines)
    assert sum(line.startswith("#SBATCH --job-name=name-") for line in lines) == 1
    assert "--kill-on-bad-exit=1" in next(line for line in lines if line.startswith("srun "))
    assert lines.index("module load cuda") < next(n for n, line in enumerate(lines) if line.startswith("srun "))
    assert [job.id for job in jobs] == ["70_0", "70_1", "70_2"]


def test_a_job_has_ended_when_its_result_is_there_or_the_queue_has_lost_it(programs):
    (programs / "queue").write_text("70_0 RUNNING\n70_1 PENDING\n70_2 TIMEOUT\n")
    jobs, settings = submitted(programs)
    waiting = submission.wait(jobs, settings)
    lost = next(waiting)
    assert (lost.id, lost.gone) == ("70_2", True)
    assert "job 70_2 ended without a result" in submission.ended_without_result(lost)
    (programs / "result-1.json").write_text("{}")
    assert (done := next(waiting)).id == "70_1" and not done.gone
    (programs / "queue").unlink()  # squeue fails: the queue cannot be asked, and nothing is given up for that
    (programs / "result-0.json").write_text("{}")
    assert [job.id for job in waiting] == ["70_0"] and not jobs[0].gone


def test_a_job_that_is_there_is_waited_for_and_not_submitted_twice(programs):
    (programs / "queue").write_text("70_0 RUNNING\n70_1 COMPLETED\n70_2 PENDING\n")
    jobs, settings = submitted(programs)
    again = [submission.there(job.result, f"lr={n}", settings) for n, job in enumerate(jobs)]
    assert [job and job.id for job in again] == ["70_0", None, "70_2"] and again[0].output == jobs[0].output
    with pytest.raises(
        UserError, match=r"job 70_2 is at work there, with other values \(lr=2\); wait for it, or scancel"
    ):
        submission.there(jobs[2].result, "lr=5", settings)
    assert submission.there(programs / "result-3.json", "lr=3", settings) is None, "none was submitted"
    for name in (".stop", ".requeues"):
        jobs[0].result.with_suffix(name).touch()
    submitted(programs)
    assert not [*programs.glob("*.stop"), *programs.glob("*.requeues")], "a new job begins anew"


@pytest.mark.parametrize("count", [1, 3])
def test_a_command_that_is_killed_before_it_knows_its_jobs_submits_none_twice(programs, monkeypatch, count):
    """Between sbatch and the line that writes its answer down: the jobs are found by their name."""
    wrote = submission.write_json

    def killed(path, value):
        if value["job"] is not None:
            raise KeyboardInterrupt
        wrote(path, value)

    monkeypatch.setattr(submission, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        submitted(programs, count)
    monkeypatch.undo()
    monkeypatch.setenv("HERE", str(programs))
    monkeypatch.setenv("PATH", f"{programs}/bin:{os.environ['PATH']}")
    ids = ["70"] if count == 1 else ["70_0", "70_1", "70_2"]
    (programs / "queue").write_text("".join(f"{one} PENDING\n" for one in reversed(ids)))
    told = SlurmConfig()
    found = [submission.there(programs / f"result-{n}.json", f"lr={n}", told) for n in range(count)]
    assert [job and job.id for job in found] == ids
    assert [job.output.name for job in found] == [f"{one}_0_log.out" for one in ids]
    (name,) = (line.removeprefix("#SBATCH --job-name=") for line in (programs / "script").read_text().splitlines()
               if line.startswith("#SBATCH --job-name="))  # fmt: skip
    assert f"--name={name}\n" in (programs / "calls").read_text()
    (programs / "queue").write_text("")  # it was killed before sbatch was asked
    assert submission.there(programs / "result-0.json", "lr=0", told) is None
    (programs / "queue").unlink()
    (programs / "bin/squeue").write_text("#!/bin/sh\necho no controller >&2; exit 1\n")
    with pytest.raises(UserError, match=r"result-0.json: whether its job was submitted cannot be asked \(no contr"):
        submission.there(programs / "result-0.json", "lr=0", told)


def test_a_queue_that_gives_no_answer_is_told_of_once(programs, caplog):
    jobs, settings = submitted(programs, 1)
    (programs / "bin/squeue").write_text(
        '#!/bin/sh\necho x >> "$HERE/asked"; [ $(wc -l < "$HERE/asked") -gt 9 ] && echo {} > "$HERE/result-0.json"\n'
        "echo slurmctld is down >&2; exit 1\n"
    )
    assert [job.gone for job in submission.wait(jobs, settings)] == [False]
    assert caplog.text.count("the queue cannot be asked: slurmctld is down") == 1


def test_what_changes_is_said_once_and_shortly(programs, caplog):
    """Two jobs and their requeue: Slurm's words at each look, and what stands in the files of the jobs."""
    looks = ["70_0 RUNNING\n70_1 PENDING", "70_0 RUNNING\n70_1 PENDING", "70_0 PENDING\n70_1 RUNNING",
             "70_0 RUNNING\n70_1 RUNNING", "70_0 RUNNING\n70_1 COMPLETING", ""]  # fmt: skip
    for number, look in enumerate(looks):
        (programs / f"look-{number}").write_text(look)
    (programs / "bin/squeue").write_text(
        '#!/bin/sh\ncd "$HERE"; n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n; cat look-$n\n'
        "[ $n = 2 ] && echo '{\"requeued\": 1}' > result-0.requeues\n"
        "[ $n = 4 ] && echo {} > result-1.json; [ $n = 5 ] && echo {} > result-0.json; exit 0\n"
    )
    caplog.set_level("INFO", logger="lit_llm")
    jobs, settings = submitted(programs, 2)
    assert [job.id for job in submission.wait(jobs, settings)] == ["70_1", "70_0"]
    assert caplog.messages == [
        "job 70_0: running; job 70_1: waiting in the queue (0 of 2 done)",
        "job 70_0: queued again (1 time); job 70_1: running (0 of 2 done)",
        "job 70_0: running again (0 of 2 done)",
        "job 70_1: done (1 of 2 done)",
        "job 70_0: done (2 of 2 done)",
    ]


def test_what_sbatch_refuses_by_is_said_once(programs, capfd):
    (programs / "bin/sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition: none' >&2; exit 1\n")
    with pytest.raises(UserError, match=r"^the job was not taken: sbatch: error: invalid partition: none$"):
        submitted(programs, 1)
    assert "partition" not in "".join(capfd.readouterr())


def test_a_signal_at_the_waiting_command_stops_its_jobs_and_calls_none_failed(programs):
    """Those that have not begun are taken back: they have no result, and did not fail."""
    (programs / "queue").write_text("70_0 RUNNING\n70_1 PENDING\n")
    for name, does in {  # while the queue is asked Ctrl+C is pressed; Slurm takes one job back, and the other one saves
        "squeue": '[ -e "$HERE/pressed" ] || { touch "$HERE/pressed"; kill -INT $PPID; }; cat "$HERE/queue"',
        "scancel": 'case "$*" in --state=PENDING*_1) echo 70_0 RUNNING > "$HERE/queue";; '
                   '--signal=TERM*_0) echo "{\\"exit\\": 143}" > "$HERE/result-0.json";; esac',
    }.items():  # fmt: skip
        (programs / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
    jobs, settings = submitted(programs, count=2)
    ended = list(submission.wait(jobs, settings))
    assert [(job.id, job.stopped, job.gone) for job in ended] == [
        ("70_0", signal.SIGINT, False), ("70_1", signal.SIGINT, True),
    ]  # fmt: skip
    assert all(outcome.asked_to_stop(job.result).exists() for job in jobs)


def test_a_sigterm_that_nobody_here_sent_is_no_result(tmp_path):
    """Slurm sends one to a job that it takes away and queues again: whoever waits goes on waiting."""
    result = tmp_path / "result.json"

    def stopped(code):
        raise SystemExit(code)

    for code, asked, written in ((143, False, False), (143, True, True), (140, True, False), (2, False, True)):
        outcome.asked_to_stop(result).unlink(missing_ok=True)
        result.unlink(missing_ok=True)
        if asked:
            outcome.asked_to_stop(result).touch()
        with pytest.raises(SystemExit) as left:
            outcome.written(result, lambda code=code: stopped(code), str, requeue=True)
        assert (left.value.code, result.exists()) == (code, written)


@pytest.fixture
def in_a_job(programs, monkeypatch):
    """Calls in_job, of an array's job, with a run that SIGUSR2 comes in the middle of. Returns the exit code."""
    for name, value in {JOB: "", "SLURM_JOB_ID": "81", "SLURM_ARRAY_JOB_ID": "80", "SLURM_ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(name, value)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}

    def stopped(saves):
        if saves:
            (programs / "run/checkpoints").mkdir(parents=True, exist_ok=True)
            new = programs / f"run/checkpoints/step-{time.monotonic_ns()}.ckpt"
            new.touch()
            if saves == "by a clock that is behind":
                os.utime(new, (10**9, 10**9))
            time.sleep(0.01)  # a file system's clock
        os.kill(os.getpid(), signal.SIGUSR2)
        raise AssertionError("not reached")

    def called(rank="0", saves=True, requeues=2):
        monkeypatch.setenv("SLURM_PROCID", rank)
        with pytest.raises(SystemExit) as left:
            in_job(lambda: stopped(saves), programs / "run", programs / "result.requeues", requeues)
        return left.value.code

    yield called
    for signum, handler in before.items():
        signal.signal(signum, handler)


REQUEUED = "scontrol requeue 80_3"


def test_a_signal_before_the_limit_queues_the_job_again_once_for_each(programs, in_a_job, capsys):
    """And not from the tasks of other nodes, which end in order, and no more often than it may."""
    assert [in_a_job(rank) for rank in "1000"] == [0, 0, 0, 128 + signal.SIGUSR2]
    assert in_job(lambda: 5, programs / "run", programs / "result.requeues", requeues=2) == 5
    assert (programs / "calls").read_text().splitlines() == [REQUEUED] * 2
    assert "was queued again 2 times, as slurm.requeues allows" in capsys.readouterr().err


def test_a_job_that_gets_nowhere_is_not_queued_again_for_ever(programs, in_a_job, capsys):
    codes = [in_a_job(saves=saves, requeues=50) for saves in (True, False, True, False, False, False)]
    assert codes == [0] * 5 + [128 + signal.SIGUSR2]
    assert (programs / "calls").read_text().splitlines() == [REQUEUED] * 5
    assert "queued again 5 times, and wrote no checkpoint in the last 3 of them" in capsys.readouterr().err


def test_a_signal_that_comes_when_the_result_is_told_queues_nothing_again(programs, in_a_job):
    (programs / "result.json").write_text("{}")
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        in_a_job()
    assert "scontrol" not in (programs / "calls").read_text()


def test_what_a_node_writes_whose_clock_is_behind_counts(programs, in_a_job):
    codes = [in_a_job(saves=saves, requeues=50) for saves in (True, *["by a clock that is behind"] * 4)]
    assert codes == [0] * 5 and (programs / "calls").read_text().splitlines() == [REQUEUED] * 5


def test_a_requeue_that_slurm_refuses_is_told(programs, in_a_job, capsys):
    (programs / "bin/scontrol").write_text("#!/bin/sh\necho Requeue has been disabled >&2; exit 1\n")
    assert in_a_job() == 128 + signal.SIGUSR2
    assert "it was not: scontrol requeue 80_3: Requeue has been disabled" in capsys.readouterr().err


def test_where_a_run_is_made_is_no_part_of_what_it_is():
    here = compose("train", [])
    there = compose("train", ["trainer.launcher=slurm", "trainer.slurm.partition=big"])
    assert schema.identity(here) == schema.identity(there) != schema.identity(compose("train", ["seed=1"]))
    assert without_names(schema.plain(here)) == without_names(schema.plain(there))


def test_one_file_says_what_jobs_are_asked_for_with():
    values = load(conf_folder() / "slurm/default.yaml")
    assert SlurmConfig(**values) == SlurmConfig() and [*values] == [*SlurmConfig.__dataclass_fields__]
    chain = compose("pipeline", ["slurm@stages.ppo.trainer.slurm=default", "stages.ppo.trainer.slurm.minutes=5"])
    assert (chain.stages.ppo.trainer.slurm.minutes, chain.stages.dpo.trainer.slurm.minutes) == (5, 1440)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cluster": "pbs"}, "hydra.launcher.cluster=pbs: must be one of slurm, local"),
        ({"minutes": 1, "signal_seconds": 60}, "hydra.launcher.signal_seconds=60: must be less than the job's whole"),
        ({"minutes": 0}, "hydra.launcher.minutes=0: must be"),
        ({"minutes": "ten"}, "hydra.launcher.minutes=ten: Value 'ten' of type 'str' could not be converted to Integer"),
        ({"partitoin": "x"}, "hydra.launcher.partitoin: unknown key; there are cluster, partition"),
    ],
)
def test_a_mistake_in_the_launcher_is_one_line(programs, values, said):  # noqa: ARG001
    with pytest.raises(UserError) as caught:
        SlurmLauncher(**values)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_without_slurm_it_is_said_before_torch_is_imported(tmp_path):
    line = [sys.executable, str(ROOT / "scripts/train.py"), "trainer.launcher=slurm"]
    bare = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=bare, timeout=60, check=False)
    assert done.returncode == 2 and "loading torch" not in done.stderr
    assert done.stderr.strip() == (
        "error: trainer.slurm.cluster=slurm: there is no sbatch on this machine; give local to try it out without Slurm"
    )


# Processes of this machine in place of jobs


@pytest.mark.slow
def test_a_job_of_this_machine_is_started_again_and_goes_on(data, tmp_path):
    words = [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache", *MORE, "trainer.max_steps=300",
             "trainer.checkpoint_every_n_steps=1"]  # fmt: skip
    job = ["trainer.launcher=slurm", "trainer.slurm.cluster=local", "trainer.slurm.poll_seconds=0.2"]
    line = [sys.executable, str(ROOT / "scripts/train.py"), *words, *job, f"hydra.run.dir={tmp_path}/run"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT)
    wait_for(lambda: any((tmp_path / "run").glob("checkpoints/step-*.ckpt.json")), process)
    (tasks,) = [path for path in Path("/proc").glob("[0-9]*") if _runs(path, "submitit.core._submit", tmp_path)]
    os.kill(int(tasks.name), signal.SIGUSR2)
    assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()
    outputs = [tmp_path / "log", *(tmp_path / "run/.slurm").glob("*.err")]
    told = "".join(file.read_text() for file in outputs)
    assert "queued again (1 of at most 50 times)" in told and "resumed from" in told
    assert json.loads((tmp_path / "run/metrics.json").read_text())["steps"] == 300


def _runs(process, name, folder):
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return name.encode() in words and any(str(folder).encode() in word for word in words)


@pytest.mark.slow
def test_a_search_of_jobs_of_this_machine(data, tmp_path):
    """Both plugins at once: two trials proposed together run as two jobs."""
    pytest.importorskip("optuna")
    words = [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache", *MORE]
    search = ["-m", "optimizer.lr=tag(log, interval(1e-4,1e-2))", f"hydra.sweep.dir={tmp_path}/s",
              "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.at_once=2", "hydra/launcher=slurm",
              "hydra.launcher.cluster=local", "hydra.launcher.poll_seconds=0.2"]  # fmt: skip
    line = [sys.executable, str(ROOT / "scripts/train.py"), *words, *search]
    done = subprocess.run(line, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = json.loads((tmp_path / "s/leaderboard.json").read_text())["jobs"]
    assert sorted(job["job"] for job in jobs) == ["0", "1", "2", "3"] and "best first" in done.stdout
    told = json.loads((tmp_path / "s/study.json").read_text())
    assert told["best"]["objective"] == jobs[0]["objective"] and sum(told["trials"].values()) == 4
    assert stat.S_IMODE((tmp_path / "s/.trials/0.json").stat().st_mode) == 0o600
