"""A checkpoint that several processes wrote as a folder is whole or absent, and every kind of damage is told."""

import io
import json
import os
import pickle
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lit_llm.checkpointing import atomic, sharded, shards
from lit_llm.checkpointing.atomic import AtomicCheckpointIO
from lit_llm.checkpointing.hashed_file import MANIFEST, HashedFile
from lit_llm.checkpointing.resume import CHECKPOINTS, PATTERN, checkpoint_name, find_checkpoint
from lit_llm.checkpointing.training_state import collect, names_in
from lit_llm.errors import UserError
from lit_llm.runtime.run_lock import RunLock
from tests.processes import FORK, together

from .sharded_run import Small, shard

NAME = checkpoint_name(8)


def begun() -> Small:
    """A module whose parameters the processes share."""
    dist.init_process_group("gloo")
    module, mesh = Small(), init_device_mesh("cpu", (dist.get_world_size(),))
    shard(module.model, mesh)
    fully_shard(module.scale, mesh=mesh)
    return module


def write_one(path: Path) -> dict[str, torch.Tensor]:
    module = begun()
    optimizer = torch.optim.AdamW(module.parameters())
    module.model(torch.arange(8)[None]).sum().backward()
    optimizer.step()
    states = [optimizer.state_dict() | {"names": names_in(optimizer, module)}]
    told = {"global_step": 8, "state_dict": module.state_dict(), "optimizer_states": states}
    sharded.save(collect(told, module), path)
    return module.weights()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("two") / NAME
    return path, together(2, write_one, path)[0]


@pytest.fixture
def checkpoint(written: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> Path:
    """The newer of two; the first of them in a file, as one process would write it."""
    place = tmp_path / "run" / CHECKPOINTS
    AtomicCheckpointIO().save_checkpoint({"global_step": 1, "state_dict": {}}, place / checkpoint_name(1))
    shutil.copytree(written[0], place / NAME)
    return place / NAME


def test_the_folder_holds_what_a_file_would(written: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """Tied weights once, under both their names; a weight that one process holds nothing of."""
    path, weights = written
    content = atomic.load(path)
    assert content["state_dict"].keys() == {*weights, "model.lm_head.weight"}
    for name, weight in weights.items():
        assert torch.equal(content["state_dict"][name], weight), name
    [state] = content["optimizer_states"]
    assert [state["names"][index] for index in state["state"]] == [name for name in weights if name != "scale.weight"]
    assert all(float(each["step"]) == 1 and each["exp_avg"].shape == each["exp_avg_sq"].shape
               for each in state["state"].values())  # fmt: skip
    numbers: dict[str, list[int]] = {}
    for name, part in shards.parts(path, shards.read_index(path, [file.name for file in path.iterdir()])):
        numbers.setdefault(name, []).append(part.numel())
    assert "state_dict.model.lm_head.weight" not in numbers
    assert numbers["state_dict.scale.weight"] == [16, 0] and len(numbers["state_dict.model.backbone.norm.weight"]) == 2
    assert sum(map(sum, numbers.values())) == sum(weight.numel() for weight in weights.values()) * 3 - 2 * 16


def test_any_changed_byte_is_refused_with_the_file_named(checkpoint: Path) -> None:
    generator = random.Random(0)
    names = sorted(path.name for path in checkpoint.iterdir())
    assert names == [".metadata", "__0_0.distcp", "__1_0.distcp", "manifest.json", "meta.pt"]
    for name in names[:3] + names[4:]:
        content = bytearray((checkpoint / name).read_bytes())
        for _ in range(25):
            place, bit = generator.randrange(len(content)), generator.randrange(8)
            content[place] ^= 1 << bit
            (checkpoint / name).write_bytes(content)
            with pytest.raises(UserError, match=f"^{checkpoint}: {name} is damaged"):
                atomic.check(checkpoint)
            content[place] ^= 1 << bit
        (checkpoint / name).write_bytes(content)
    assert find_checkpoint(checkpoint.parents[1]) == checkpoint


def sealed(checkpoint: Path) -> None:
    """The manifest says what the files are now."""
    entries = {}
    for path in (each for each in checkpoint.iterdir() if each.name != MANIFEST):
        hashed = HashedFile(io.BytesIO())
        hashed.write(path.read_bytes())
        entries[path.name] = hashed.entry
    (checkpoint / MANIFEST).write_text(json.dumps({"format": 1, "step": 8, "files": entries}))


def cut_short(checkpoint: Path) -> None:
    os.truncate(checkpoint / "__1_0.distcp", 100)


def one_missing(checkpoint: Path) -> None:
    (checkpoint / "__0_0.distcp").unlink()


def no_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()


def bad_manifest(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).write_text('{"format": 1, "files": {"meta.pt": 3}}')


def of_the_future(checkpoint: Path) -> None:
    manifest = checkpoint / MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("/nowhere/evil",)


def code_in_the_index(checkpoint: Path) -> None:
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Evil()))
    sealed(checkpoint)


def index_elsewhere(checkpoint: Path) -> None:
    index = (checkpoint / ".metadata").read_bytes()
    (checkpoint / ".metadata").write_bytes(index.replace(b"__1_0.distcp", b"../../../etc"))
    sealed(checkpoint)


def code_in_the_rest(checkpoint: Path) -> None:
    torch.save({"weights": [], "aliases": {}, "code": Path("x")}, checkpoint / "meta.pt")
    sealed(checkpoint)


def not_finite(checkpoint: Path) -> None:
    index = shards.read_index(checkpoint, [path.name for path in checkpoint.iterdir()])
    part = next(part for name, part in shards.parts(checkpoint, index) if name == "state_dict.scale.weight")
    value, nan = part.flatten()[3].numpy().tobytes(), torch.full((), torch.nan, dtype=torch.float64).numpy().tobytes()
    [path] = [each for each in checkpoint.glob("*.distcp") if value in each.read_bytes()]
    path.write_bytes(path.read_bytes().replace(value, nan))
    sealed(checkpoint)


DAMAGES = {
    cut_short: "__1_0.distcp has 100 bytes instead of",
    one_missing: "__0_0.distcp is missing",
    no_manifest: r"was not finished \(no manifest.json\)",
    bad_manifest: "has a damaged manifest.json",
    of_the_future: "format 2",
    code_in_the_index: r"\.metadata: cannot be read as an index of tensors \(it names posix.mkdir",
    index_elsewhere: r"\.metadata: names the file '\.\./\.\./\.\./etc', which the manifest does not have",
    code_in_the_rest: "meta.pt: cannot be read",
    not_finite: "the weight scale.weight is not finite",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items(), ids=lambda value: getattr(value, "__name__", None))
def test_damage_is_named_and_the_one_before_is_used(
    checkpoint: Path, damage: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(checkpoint)
    with pytest.raises(UserError, match=message):
        AtomicCheckpointIO().load_checkpoint(checkpoint)
    assert find_checkpoint(checkpoint.parents[1]) == checkpoint.with_name(checkpoint_name(1))
    assert "not resumed from" in caplog.text and checkpoint.name in caplog.text


# Kills


def save_for_ever(folder: Path, step: int) -> None:
    module, files = begun(), AtomicCheckpointIO()
    while True:
        step += 1
        with torch.no_grad():
            for each in module.parameters():
                each.fill_(step)
        told = {"global_step": step, "state_dict": module.state_dict()}
        sharded.save(collect(told, module), folder / checkpoint_name(step))
        if dist.get_rank() == 0:
            for old in sorted(folder.glob(PATTERN))[:-2]:
                files.remove_checkpoint(old)


@pytest.mark.parametrize("times", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_while_saving(tmp_path: Path, times: int) -> None:
    """SIGKILL of one of two processes that do nothing but save: each folder that has its name is whole, the other
    process does not hang, and what was left half is removed by those that come after."""
    generator, step = random.Random(1), 0
    folder = tmp_path / CHECKPOINTS
    for number in range(times):
        ended, pids = FORK.Queue(), FORK.Queue()
        saving = FORK.Process(target=kill_one, args=(folder, step, pids, ended, number % 2, generator.random()))
        saving.start()
        assert ended.get(timeout=300) < 100
        saving.join(100)
        whole_ones = sorted(folder.glob(PATTERN))
        assert whole_ones and all(atomic.problem_with(path) is None for path in whole_ones)
        found = find_checkpoint(tmp_path)
        assert found == whole_ones[-1]
        newest = int(found.stem.removeprefix("step-"))
        weights = atomic.load(found)["state_dict"]
        assert newest > step and all((weight == newest).all() for weight in weights.values())
        step = newest
    with RunLock(tmp_path):
        assert not any(path.name.startswith(".unfinished") for path in folder.iterdir())


def kill_one(folder: Path, step: int, pids: Any, ended: Any, rank: int, share: float) -> None:
    """Kill a process at a random time of its saving; how many seconds later the other one ended."""

    def work() -> None:
        pids.put((int(os.environ["RANK"]), os.getpid()))
        save_for_ever(folder, step)

    outcome = threading.Thread(target=lambda: together(2, work, dies=True), daemon=True)
    outcome.start()
    known = dict(pids.get(timeout=100) for _ in range(2))
    while len(list(folder.glob(PATTERN))) < 2 or not (folder / checkpoint_name(step + 3)).exists():
        time.sleep(0.002)
    time.sleep(share * 0.05)
    os.kill(known[rank], signal.SIGKILL)
    killed = time.monotonic()
    outcome.join(120)
    ended.put(time.monotonic() - killed)
