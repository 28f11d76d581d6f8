"""Invariant: the folder of a sharded model is the one that a single process would write, and nobody held the whole."""

from __future__ import annotations

import copy
import gc
import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lit_llm.backbone.adapter_folder import save_adapter_folder
from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.family_table import FAMILIES
from lit_llm.backbone.huggingface import load_model, save_model
from lit_llm.backbone.lora import apply_lora, merge_lora
from lit_llm.backbone.models import LanguageModel, ScoreModel, StoredDtypes
from lit_llm.backbone.saved_adapters import save_adapter
from lit_llm.backbone.sharded_folder import save_sharded, whole_tensors
from lit_llm.backbone.weights import weight_files
from lit_llm.errors import UserError
from lit_llm.lineage.lineage import hash_folder
from lit_llm.runtime.allocator import give_back_freed_memory
from tests.processes import together

SMALL = {
    "vocab_size": 61, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "max_positions": 64,
}  # fmt: skip
LIMIT = 20_000
# By what their files do: one tied and one not, several matrices in one, (in, out) matrices with biases.
KINDS: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_embeddings": True},
    "llama": {"tie_embeddings": False},
    "phi3": {},
    "gpt2": {"num_kv_heads": 4, "tie_embeddings": True},
}
LARGE = {"family": "llama", "vocab_size": 64, "hidden_size": 512, "num_layers": 8, "num_heads": 8, "num_kv_heads": 8,
         "head_dim": 64, "intermediate_size": 1024, "max_positions": 32}  # fmt: skip


def made(family: str, score: bool = False, **more: Any) -> Any:
    torch.manual_seed(1)
    values: dict[str, Any] = SMALL | dict(FAMILIES[family].fixed) | more
    model = (ScoreModel if score else LanguageModel)(BackboneConfig(family=family, **values))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.5, 0.2)
    return model


def adapted(family: str = "qwen3", score: bool = False) -> Any:
    model = apply_lora(made(family, score), rank=2, decomposed=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0.3, 0.2)
    return model


def sharded(model: Any) -> Any:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.backbone.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def write_all(folder: Path) -> dict[str, Any]:
    dist.init_process_group("gloo")
    for family, more in KINDS.items():
        save_sharded(folder / family, sharded(made(family, **more)), shard_bytes=LIMIT)
    save_sharded(folder / "score", sharded(made("qwen3", score=True)), shard_bytes=LIMIT)
    lora = sharded(adapted())
    save_sharded(folder / "merged", lora, shard_bytes=LIMIT)
    save_adapter(folder / "adapter", lora, "base")
    save_adapter_folder(folder / "unmerged", sharded(adapted(score=True)), base="base")
    half = made("qwen3")
    half.stored = StoredDtypes(torch.bfloat16, {"model.norm.weight": torch.float32})
    save_sharded(folder / "half", sharded(half), shard_bytes=LIMIT)
    large = made("qwen3")
    with torch.no_grad():
        large.backbone.layers[0].mlp.up_proj.weight[-1, -1] = -1e5  # which the second process holds
    large.stored = StoredDtypes(torch.float16)
    save_sharded(folder / "large", sharded(large), shard_bytes=LIMIT)
    again = sharded(made("llama"))
    save_sharded(folder / "again", again, shard_bytes=LIMIT)
    save_sharded(folder / "again", again)  # in one file
    return {"full": full_disk(folder / "full"), "grown": memory(folder / "memory")}


def full_disk(folder: Path) -> str:
    """What each process is told where the first one cannot write."""
    model = sharded(made("llama"))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if dist.get_rank() == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT // 2, resource.RLIM_INFINITY))
    try:
        save_sharded(folder, model, shard_bytes=LIMIT)
    except UserError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return ""


def resident(what: str) -> int:
    """Bytes of this process's memory: VmRSS now, VmHWM at most since it was last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def memory(folder: Path) -> dict[str, int]:
    """By how many bytes each way of writing has grown this process at most, and the whole model's bytes."""
    with torch.device("meta"):
        model = LanguageModel(BackboneConfig(**LARGE))  # type: ignore[arg-type]
    sharded(model)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    found = {"model": sum(parameter.numel() * 4 for parameter in model.parameters())}

    def grown(work: Any) -> int:
        gc.collect()
        give_back_freed_memory()  # or what grows next would first fill it
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        before = resident("VmRSS")
        work()
        return resident("VmHWM") - before

    found["streamed"] = grown(lambda: save_sharded(folder, model, shard_bytes=4_000_000))
    found["whole"] = grown(lambda: dict(whole_tensors(model)))
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("sharded")
    return folder, together(2, write_all, folder)


def contents(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}


def compare(found: Path, model: Any, expected: Path, exact: bool = True) -> None:
    save_model(expected, model)
    ours, theirs = contents(found), contents(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0 if exact else 1e-6, msg=name)
    for file in expected.glob("*.json"):
        assert json.loads((found / file.name).read_text()) == json.loads(file.read_text()), file.name


@pytest.mark.parametrize("family", KINDS)
def test_it_is_the_folder_of_one_process_in_shards(
    written: tuple[Path, list[dict[str, Any]]], tmp_path: Path, family: str
) -> None:
    folder = written[0] / family
    compare(folder, made(family, **KINDS[family]), tmp_path / "expected")
    files = weight_files(folder)
    assert len(files) > 3 and all(file.stat().st_size < LIMIT + 4000 for file in files)
    assert {file.name for file in files} | {"model.safetensors.index.json", "config.json"} == hash_folder(folder).keys()
    tokens = torch.arange(12)[None]
    model = load_model(folder)
    expected = made(family, **KINDS[family])
    assert torch.equal(model.logits(model(tokens)), expected.logits(expected(tokens)))


def test_a_reward_model_keeps_its_head_of_one_row(
    written: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    compare(written[0] / "score", made("qwen3", score=True), tmp_path / "expected")


def test_adapters_are_merged_on_the_way_and_written_beside(
    written: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    compare(written[0] / "merged", merge_lora(copy.deepcopy(adapted())), tmp_path / "expected", exact=False)
    save_adapter(tmp_path / "adapter", adapted(), "base")
    save_adapter_folder(tmp_path / "unmerged", adapted(score=True), base="base")
    for name in ("adapter", "unmerged"):
        for file in (each for each in (tmp_path / name).iterdir()):
            assert (written[0] / name / file.name).read_bytes() == file.read_bytes(), (name, file.name)


def test_types_are_those_of_the_folder_and_float32_where_a_number_is_too_large(
    written: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    half = made("qwen3")
    half.stored = StoredDtypes(torch.bfloat16, {"model.norm.weight": torch.float32})
    compare(written[0] / "half", half, tmp_path / "half")
    assert {tensor.dtype for tensor in contents(written[0] / "large").values()} == {torch.float32}
    assert json.loads((written[0] / "large/config.json").read_text())["dtype"] == "float32"


def test_files_of_before_are_not_taken_for_the_new_ones(written: tuple[Path, list[dict[str, Any]]]) -> None:
    assert [path.name for path in (written[0] / "again").glob("model*")] == ["model.safetensors"]


def test_a_full_disk_is_the_same_line_in_every_process(written: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (found["full"] for found in written[1])
    assert first == second and "full/model-00001.safetensors: cannot be written" in first and "\n" not in first


def test_no_process_holds_the_whole_model(written: tuple[Path, list[dict[str, Any]]]) -> None:
    """The model has 84 MB, a file 4 and a tensor 2. To gather all of it first takes the model."""
    for found in (each["grown"] for each in written[1]):
        assert found["model"] > 60_000_000
        assert found["streamed"] < 0.5 * found["model"], found
        assert found["streamed"] < 0.5 * found["whole"], found  # an allocator may have had a part of either
