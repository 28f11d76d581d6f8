"""What is no model folder, or not as it was made, is told in one line before it is used."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import load_model, save_model
from lit_llm.backbone.lora import apply_lora
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.saved_adapters import save_adapter
from lit_llm.errors import UserError
from lit_llm.lineage import lineage
from lit_llm.runtime import file_hashes
from lit_llm.runtime.model_folder import check_model_folder
from lit_llm.text.bpe import train_bpe
from lit_llm.text.tokenizer import load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 538090408\n"


def language_model(vocabulary: int) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(from_depth(vocabulary, 2, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model made here, with its lineage."""
    tokenizer = train_bpe(["a model is trained on text"] * 20, vocab_size=280)
    place = tmp_path / "run" / "model"
    save_model(place, language_model(tokenizer.vocab_size), tokenizer)
    lineage.record(place, stage="pretraining", config={}, parents={}, data={}, metrics={}, tokenizer={})
    load_model(place), load_tokenizer(place)
    return place


def flip(path: Path, place: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_flipped_bit_of_the_weights_is_found(folder: Path) -> None:
    path, generator = folder / "model.safetensors", random.Random(0)
    size = path.stat().st_size
    for _ in range(60):
        place, bit = generator.randrange(size), generator.randrange(8)
        flip(path, place, bit)
        with pytest.raises(UserError) as error:
            load_model(folder)
        assert str(path) in line(error)
        assert "lineage.json recorded" in line(error)
        flip(path, place, bit)
    load_model(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"])
def test_a_changed_file_beside_the_weights_is_found(folder: Path, name: str) -> None:
    path = folder / name
    text = path.read_text()
    path.write_text(text.replace("a", "b", 1) if name != "config.json" else text.replace("32", "33", 1))
    with pytest.raises(UserError, match=r"lineage\.json recorded"):
        load_model(folder), load_tokenizer(folder)
    path.write_text(text + "\n")
    with pytest.raises(UserError) as error:
        load_model(folder), load_tokenizer(folder)
    assert f"{path}: damaged or edited" in line(error)
    (folder / "lineage.json").unlink()  # the way out that the line names
    load_model(folder), load_tokenizer(folder)


def test_zeros_a_cut_and_a_broken_lineage(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-4096] + bytes(4096), whole[:-100], b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors: damaged or edited"):
            load_model(folder)
    path.write_bytes(whole)
    for text in ("{", "[]", "[" * 100_000):
        (folder / "lineage.json").write_text(text)
        with pytest.raises(UserError, match=r"lineage.json: damaged, names no files"):
            load_model(folder)


def test_a_hash_is_remembered_while_the_file_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(file_hashes, "_known", {})
    path = tmp_path / "weights"
    path.write_bytes(bytes(2**21))
    monkeypatch.setattr(file_hashes, "_SETTLED", -(10**12))  # as if it had been written long ago
    first = file_hashes.sha256_of(path)
    assert not (tmp_path / "outputs").exists()  # no project here: nothing is left behind
    monkeypatch.setattr(file_hashes, "_known", {})
    (tmp_path / "outputs").mkdir()
    assert file_hashes.sha256_of(path) == first
    monkeypatch.setattr(file_hashes, "_known", {})
    monkeypatch.setattr(file_hashes.hashlib, "file_digest", None)  # another process: read from the cache
    assert file_hashes.sha256_of(path) == first
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    about = path.stat()
    flip(path, 7, 3)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # the time of its bytes is as before
    assert file_hashes.sha256_of(path) != first


def test_a_file_that_was_written_just_now_is_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two changes within a clock's tick leave the same time."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    stamp = time.time_ns() - 10**9
    os.utime(path, ns=(stamp, stamp))
    file_hashes.sha256_of(path)
    assert os.path.realpath(path) not in file_hashes._known


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
def test_a_pointer_of_git_lfs_is_called_one(folder: Path, name: str) -> None:
    (folder / "lineage.json").unlink()
    (folder / name).write_text(POINTER)
    with pytest.raises(UserError, match=r"is a Git LFS pointer of a file of 538,090,408 bytes.*git lfs pull") as error:
        load_model(folder), load_tokenizer(folder)
    assert str(folder / name) in line(error)


def test_shards_that_are_missing_or_say_the_same_twice(folder: Path) -> None:
    (folder / "lineage.json").unlink()
    path, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    path.rename(folder / "one.safetensors")
    for names, message in (
        ({"a": "one.safetensors", "b": "two.safetensors", "c": "three.safetensors"}, "2 of 3 shards are missing"),
        ({}, "weight_map names no file"),
        ({"a": ["one.safetensors"]}, "should hold an object weight_map"),
        ({"a": 7}, "weight_map names the file 7"),
    ):
        index.write_text(json.dumps({"weight_map": names}))
        with pytest.raises(UserError, match=message) as error:
            load_model(folder)
        assert line(error)
    index.write_text(POINTER)
    with pytest.raises(UserError, match="Git LFS pointer"):
        load_model(folder)
    (folder / "two.safetensors").write_bytes((folder / "one.safetensors").read_bytes())
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(UserError, match=r"holds .*, which one.safetensors holds too"):
        load_model(folder)


# ---- what is no model folder -----------------------------------------------------------------------------------------


def test_an_adapter_is_a_model_with_its_base_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = apply_lora(language_model(280), rank=2)
    save_adapter(folder.parent / "adapter", model, str(folder))
    check_model_folder(folder.parent / "adapter", "init_from")
    load_model(folder.parent / "adapter")
    assert load_tokenizer(folder.parent / "adapter").fingerprint() == load_tokenizer(folder).fingerprint()
    save_adapter(folder.parent / "adapter", model, "no/such/base")
    for read in (load_model, load_tokenizer):  # whichever is read first
        with pytest.raises(UserError, match="base_model_name_or_path=no/such/base: no model folder there") as error:
            read(folder.parent / "adapter")
        assert str(folder.parent / "adapter/adapter_config.json") in line(error)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_adapter(folder.parent / "adapter", model, "fam/granite")  # a folder's name, or a model of the hub
    with pytest.raises(UserError, match=r"fam/granite: no model folder there, looked for from .*hub:fam/granite"):
        load_model(folder.parent / "adapter")


@pytest.mark.parametrize(
    "text",
    [
        "org/name-7B",
        "hf://org/name-7B",
        "https://huggingface.co/org/name-7B",
        "https://huggingface.co/org/name-7B/tree/main",
    ],
)
def test_a_name_on_the_hub_is_called_one(text: str) -> None:
    with pytest.raises(UserError) as error:
        check_model_folder(text, "init_from")
    assert line(error).endswith("give init_from=hub:org/name-7B")


def test_runs_files_and_folders_that_are_not_there(folder: Path) -> None:
    for given, message in (
        (folder.parent, f"is a run's folder; give its model: model={folder}"),
        (folder / "model.safetensors", f"is a file; give the folder that holds it (model={folder})"),
        (folder.parent / "modl", "no such folder; give a model folder on this disk"),
    ):
        with pytest.raises(UserError) as error:
            check_model_folder(given, "model")
        assert message in line(error)
    checkpoint = folder.parent / "b.ckpt"
    checkpoint.write_bytes(b"x")
    with pytest.raises(UserError, match="is a run's checkpoint"):
        check_model_folder(checkpoint)


def test_nothing_heavy_is_imported_to_say_so() -> None:
    code = (
        "import lit_llm.runtime.model_folder, lit_llm.runtime.out_of_resources, sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
