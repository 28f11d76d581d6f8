"""Who started a process: the environments of python, torchrun and srun, and what does not fit together."""

import os

import pytest

from lit_llm.runtime import devices
from lit_llm.runtime.started_by import Started, adopt, first_host, meeting_place, mismatch, started, step_name

BATCH = {"SLURM_JOB_ID": "41", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "4",
         "SLURM_JOB_NODELIST": "gpu[03-04]"}  # fmt: skip
STEP = {**BATCH, "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[03-04]"}  # fmt: skip
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "1"}  # fmt: skip


def test_each_environment_is_told_apart():
    assert started({}) == Started() == started(BATCH), "a batch script is one process, whatever its job has asked for"
    assert started({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == Started(), "as srun --pty bash"
    assert started(STEP) == Started("srun", rank=3, local_rank=1, tasks=4, nodes=2, node=1)
    assert started({**STEP, **TORCHRUN}) == Started("torchrun", rank=3, local_rank=1, tasks=4, nodes=2, node=1)


def test_of_a_step_with_a_task_a_device_each_task_becomes_a_rank():
    environment = dict(STEP)
    adopt(environment)
    assert started(environment) == started(STEP), "it stays what srun started"
    assert {key: environment[key] for key in TORCHRUN if key != "TORCHELASTIC_RUN_ID"} == {
        key: value for key, value in TORCHRUN.items() if key != "TORCHELASTIC_RUN_ID"
    }
    assert environment["MASTER_ADDR"] == "gpu03" and 20_000 <= int(environment["MASTER_PORT"]) < 40_000
    one_a_node = {**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    kept = dict(one_a_node)
    adopt(kept)
    assert kept == one_a_node and meeting_place(kept)[:2] == (1, "gpu03"), "it starts the processes of its node"


def test_tasks_of_a_step_agree_on_names_and_so_do_requeued_ones():
    assert step_name(STEP) == step_name({**STEP, "SLURM_PROCID": "0", "SLURM_RESTART_COUNT": "1"}) == "slurm-41.0"
    assert step_name({**STEP, "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "1"}) == "slurm-40_1.0"
    by_hand = {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5"}
    assert meeting_place({**STEP, **by_hand}) == (1, "10.0.0.1", 5)
    with pytest.raises(KeyError, match="MASTER_PORT"):
        meeting_place({"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"})


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu[003-010,12],login1", "gpu003"),
        ("a[7,9]-ib", "a7-ib"),
        ("a-b[1-2]", "a-b1"),
        ("rack[1-2]node[00-03],x", "rack1node00"),
    ],
)
def test_the_first_of_slurm_s_hosts(hosts, first):
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    ("asked", "environment", "said"),
    [
        ((2, 2), STEP, None), ((2, 2), TORCHRUN, None), ((8, 1), {}, None), ((4, 2), {}, None),
        ((8, 2), {**STEP, "SLURM_STEP_NUM_TASKS": "2"}, None),  # one a node
        ((4, 2), TORCHRUN, "torchrun started 2 processes on this node, one for each device; give trainer.devices=2 (or "
                           "auto), or --nproc-per-node=4"),
        ((4, 2), STEP, "srun started 2 processes on this node, one for each device; give trainer.devices=2 (or auto), "
                       "or --ntasks-per-node=4, or --ntasks-per-node=1"),
        ((2, 1), STEP, "srun started 4 processes on 2 nodes, and trainer.num_nodes=1; give trainer.num_nodes=2, or "
                       "--nodes=1"),
        ((1, 2), STEP, "srun started 2 processes on this node, one for each device; give trainer.devices=2 (or auto), "
                       "or --ntasks-per-node=1"),
        ((1, 1), {**TORCHRUN, "LOCAL_WORLD_SIZE": "4"}, "torchrun started 4 processes on this node, one for each device"
                                                        "; give trainer.devices=4 (or auto), or --nproc-per-node=1"),
    ],
)  # fmt: skip
def test_tasks_and_devices_that_do_not_agree_are_one_line(asked, environment, said):
    assert mismatch(*asked, started(environment)) == said


def test_auto_is_what_was_started_here(monkeypatch):
    settings = {"devices": "auto", "accelerator": "cpu", "num_nodes": 2, "launcher": "local"}
    assert devices.count(settings) == 1 and devices.for_lightning(settings) == "auto"
    for key, value in TORCHRUN.items():
        monkeypatch.setitem(os.environ, key, value)
    assert devices.count(settings) == 2 == devices.for_lightning(settings) and devices.fault(settings) is None
    assert "trainer.num_nodes=2, or --nnodes=1" in devices.fault({**settings, "num_nodes": 1})
