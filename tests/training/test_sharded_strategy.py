"""The strategy that a configuration asks for; checkpoints of a run whose layers several processes compute together: any
number of processes goes on from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_llm.config import schema
from lit_llm.config.command_line import compose
from lit_llm.training.sharded_strategy import CheckpointedShardedStrategy
from lit_llm.training.trainer import strategy
from tests.processes import together
from tests.stages.sharded_runs import assert_same, run

STOP, STEPS = 3, 6
WAYS = {"tp of 2": (2, 2), "tp of 2 in two groups": (4, 2), "fsdp of 4": (4, 1)}  # processes, tensor_parallel


def half(case: str, folder: Path, way: tuple[int, int], **options: Any) -> dict[str, Any]:
    return run(case, folder, *way, kind=CheckpointedShardedStrategy, **options)


@pytest.mark.parametrize(
    ("words", "sizes", "shard", "replicas"),
    [
        (["trainer=fsdp", "trainer.devices=4"], (4, 1), "full", None),
        (["trainer=fsdp", "trainer.devices=4", "trainer.shard=grad"], (4, 1), "grad", None),
        (["trainer=fsdp", "trainer.num_nodes=2", "trainer.devices=4", "trainer.shard=hybrid"], (8, 1), "hybrid", 2),
        (["trainer=tp", "trainer.devices=8"], (4, 2), "full", None),
        (["trainer=tp", "trainer.devices=8", "trainer.tensor_parallel=8"], (1, 8), "full", None),
    ],
)
def test_how_many_processes_compute_a_layer_together_is_never_left_to_lightning(words, sizes, shard, replicas):
    """Its "auto" would be all of a machine's."""
    schema.register()
    made = strategy(compose("train", ["trainer.accelerator=cpu", *words]).trainer)
    assert isinstance(made, CheckpointedShardedStrategy)
    assert (made._sizes, made.shard, made.replicas) == (sizes, shard, replicas)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["tied", "adapters"])
def test_a_run_goes_on_by_tensor_parallelism_and_from_it(case, tmp_path):
    """What stopped after three steps goes on, in another way or the same, as a run that never stopped."""
    wanted = run(case, tmp_path, steps=STEPS)
    wanted["steps"] = wanted["steps"][STOP:]
    kept = {name: tmp_path / f"{number}.ckpt" for number, name in enumerate(WAYS)}
    for name in ("tp of 2", "tp of 2 in two groups"):
        together(WAYS[name][0], _stop, case, tmp_path, WAYS[name], kept[name])
        assert kept[name].is_dir()
    run(case, tmp_path, steps=STOP, keep=tmp_path / "one.ckpt")
    assert_same(run(case, tmp_path, steps=STEPS, resume=kept["tp of 2"]), wanted, f"{case}: tp of 2, then one process")
    for before, after in [
        ("tp of 2", "tp of 2"),
        ("tp of 2", "tp of 2 in two groups"),
        ("tp of 2 in two groups", "fsdp of 4"),
        ("one", "tp of 2"),
    ]:
        found = together(WAYS[after][0], _go_on, case, tmp_path, WAYS[after], kept.get(before, tmp_path / "one.ckpt"))
        assert_same(found[0], wanted, f"{case}: {before}, then {after}")


def _stop(case: str, folder: Path, way: tuple[int, int], keep: Path) -> None:
    half(case, folder, way, steps=STOP, keep=keep)


def _go_on(case: str, folder: Path, way: tuple[int, int], resume: Path) -> dict[str, Any]:
    return half(case, folder, way, steps=STEPS, resume=resume)
