"""trainer.devices as Lightning reads it, and never more than the machine has."""

import sys
import types

import pytest
from omegaconf import OmegaConf

from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.errors import UserError
from lit_llm.runtime import devices
from lit_llm.training.command import execute


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many cores and GPUs."""

    def has(cores=2, gpus=0):
        monkeypatch.setattr(devices, "cores", lambda: cores)
        monkeypatch.setattr(devices, "gpus", lambda: gpus)

    return has


def of(value, accelerator="auto"):
    return {"devices": value, "accelerator": accelerator}


@pytest.mark.parametrize(("cores", "allowed"), [(1, 2), (2, 2), (8, 8)])
def test_no_more_processes_than_cores_but_two_everywhere(machine, cores, allowed):
    machine(cores)
    assert devices.fault(of(allowed)) is None
    assert f"must be {allowed} or less" in devices.fault(of(allowed + 1)) and f" {cores} core" in devices.fault(of(99))


@pytest.mark.parametrize("spread", [{"shard": "full"}, {"shard": None, "tensor_parallel": 4}, {"torchrun": True}])
def test_more_processes_than_cores_pass_with_a_hint_where_they_are_wanted(machine, monkeypatch, spread):
    """No process holds the whole model, or the user has started them himself: a run of 4 is resumed on a laptop."""
    machine(2)
    assert devices.fault(of(4)) and devices.hint(of(2)) is None
    if spread.pop("torchrun", False):
        for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}.items():
            monkeypatch.setenv(name, value)
    asked = {**of(4), "num_nodes": 1, **spread}
    assert devices.fault(asked) is None and "4 processes take turns on the 2 cores" in devices.hint(asked)
    assert ("holds a part of the model" in devices.hint(asked)) == bool(spread)


@pytest.mark.parametrize(
    ("value", "count", "lightning_s"),
    [
        ("auto", 4, "auto"), (1, 1, 1), ("4", 4, 4), (-1, 4, -1), ("-1", 4, -1), ([0, 3], 2, [0, 3]),
        ("0,1", 2, [0, 1]), ("2,", 1, [2]),
    ],
)  # fmt: skip
def test_what_lightning_takes_of_four_gpus_is_taken(machine, value, count, lightning_s):
    machine(gpus=4)
    trainer = OmegaConf.create(of(value))
    assert devices.fault(trainer) is None and devices.count(trainer) == count
    assert devices.for_lightning(trainer) == lightning_s


@pytest.mark.parametrize(
    ("value", "gpus", "said"),
    [
        (5, 4, "must be 4 or less; this machine has 4 GPUs"),
        ([0, 4], 4, "this machine has 4 GPUs, counted from 0"),
        ([1, 1], 4, "twice"),
        (-1, 0, "chooses GPUs, and there is none"),
        ([0], 0, "chooses GPUs, and there is none"),
        *((bad, 4, "must be a number of processes, auto") for bad in (0, -2, "-2", 2.5, "all", None, True, [], [0.5])),
    ],
)
def test_what_is_not_there_or_no_device_is_named(machine, value, gpus, said):
    machine(gpus=gpus)
    assert said in devices.fault(of(value)) and "\n" not in devices.fault(of(value))


def test_train_and_every_stage_of_a_pipeline_refuse_in_one_line_each(machine):
    machine(2)
    for command, words, key in (
        ("train", [], "trainer.devices"),
        ("pipeline", ["start_from=ppo"], "stages.dpo.trainer.devices"),
    ):
        with pytest.raises(UserError) as caught:
            check(command, hydra_words(command, [*words, f"{key}=64"]))
        assert str(caught.value).startswith(f"{key}=64: must be 2 or less; ") and "\n" not in str(caught.value)
    for word in ("2", "'2'", "auto"):
        check("train", hydra_words("train", [f"trainer.devices={word}"]))


def test_a_run_refuses_again_where_torch_knows_the_devices(machine, tmp_path):
    """A job of a sweep starts elsewhere than the command was given."""
    machine(2)
    with pytest.raises(UserError, match=r"trainer\.devices=64: must be 2 or less"):
        execute(compose("train", ["trainer.devices=64"]), tmp_path)
    with pytest.raises(UserError, match=r"trainer\.devices=64: must be 1 or less; this machine has 1 GPU"):
        machine(64, gpus=1)
        execute(compose("train", ["trainer.devices=64"]), tmp_path)


@pytest.mark.parametrize(("visible", "count"), [(None, 2), ("", 0), ("1", 1), ("0,1,2", 2), ("0,-1,1", 1)])
def test_gpus_are_counted_without_torch(monkeypatch, tmp_path, visible, count):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(devices, "Path", lambda _: tmp_path)
    monkeypatch.setattr(devices.importlib, "metadata", types.SimpleNamespace(version=lambda _: "2.13.0"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpus() == count
