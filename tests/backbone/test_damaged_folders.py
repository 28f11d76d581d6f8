"""Invariant: a folder that cannot be read is refused in one line that names the file and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_llm.backbone.huggingface import check_vocabulary, load_model, save_model
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError


@pytest.fixture
def folder(model: LanguageModel, tmp_path: Path) -> Path:
    save_model(tmp_path, model)
    return tmp_path


def set_key(key: str, value: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return change


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return rewrite


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def scramble_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[20:40] = b"\xff" * 20
    path.write_bytes(data)


def point_index_outside(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../model.safetensors"}}')


def point_index_nowhere(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-00001.safetensors"}}')


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


NORM = "model.norm.weight"
DAMAGE: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json", "no such file"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors", "no such file"]),
    "config cut": (lambda f: (f / "config.json").write_text('{"archi'), ["config.json", "not readable as JSON"]),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), ["config.json", "list"]),
    "config not UTF-8": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), ["config.json", "damaged"]),
    "weights cut": (cut, ["model.safetensors", "damaged or cut short"]),
    "weights scrambled": (scramble_header, ["model.safetensors", "damaged or cut short"]),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), ["model.safetensors", "damaged"]),
    "pickle": (pickle_only, ["pickled", "model.safetensors", "save_pretrained("]),
    "index outside": (point_index_outside, ["index.json", "../model.safetensors"]),
    "index nowhere": (point_index_nowhere, ["model-00001.safetensors", "no such file"]),
    "NaN": (change_tensors(lambda t: t[NORM][3:5].fill_(float("nan"))), [NORM, "2 NaN or infinite of 32"]),
    "infinite": (change_tensors(lambda t: t[NORM][0].fill_(float("inf"))), [NORM, "1 NaN or infinite"]),
    "missing key": (change_tensors(lambda t: t.pop(NORM)), ["missing", NORM]),
    "unexpected key": (change_tensors(lambda t: t.update(extra=torch.ones(1))), ["unexpected extra"]),
    "wrong shape": (change_tensors(lambda t: t.update({NORM: torch.ones(7)})), [NORM, "[7]", "[32]"]),
    "integers": (change_tensors(lambda t: t.update({NORM: torch.ones(32, dtype=torch.int8)})), [NORM, "int8"]),
    "vocabulary": (set_key("vocab_size", 99), ["embed_tokens.weight", "[61, 32]", "[99, 32]"]),
    "architecture": (set_key("architectures", ["T5Model"]), ["T5Model", "Qwen3ForCausalLM", "Mistral", "GPT2LM"]),
    "no architecture": (set_key("architectures", None), ["architectures", "LlamaForCausalLM"]),
    "activation": (set_key("hidden_act", "gelu"), ["hidden_act='gelu'", "silu"]),
    "rope": (set_key("rope_parameters", {"rope_type": "mrope", "rope_theta": 1e4}), ["mrope", "llama3", "yarn"]),
    "rope factor": (set_key("rope_parameters", {"rope_type": "linear", "factor": "x"}), ["factor='x'", "a number"]),
    "layers of no kind": (set_key("layer_types", ["sliding_attention", "chunked_attention"]), ["layer_types"]),
    "quantised": (set_key("quantization_config", {"bits": 4}), ["quantization_config", "unquantised"]),
    "activation that is a list": (set_key("hidden_act", [1]), ["hidden_act=[1]", "use silu"]),
    "tied in words": (set_key("tie_word_embeddings", "false"), ["tie_word_embeddings='false'", "true or false"]),
    "layers that are not there": (set_key("num_hidden_layers", 2**30), ["num_hidden_layers=1073741824"]),
    "beyond any size": (set_key("vocab_size", 2**70), ["vocab_size=1180591620717411303424", "below 2147483648"]),
    "nested without end": (lambda f: (f / "config.json").write_text("[" * 10**5), ["config.json", "not readable"]),
    "narrow floats": (change_tensors(lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)})), [NORM, "float8"]),
    "text for a number": (set_key("hidden_size", "32"), ["hidden_size='32'", "integer"]),
    "no number": (set_key("num_hidden_layers", None), ["num_hidden_layers is missing"]),
    "heads": (set_key("num_key_value_heads", 3), ["config.json", "num_kv_heads=3"]),
    "bias in the MLP": (set_key("mlp_bias", True), ["mlp_bias"]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_in_one_line(folder: Path, name: str) -> None:
    damage, expected = DAMAGE[name]
    if name == "layers of no kind":
        set_key("sliding_window", 4)(folder)
    damage(folder)
    with pytest.raises(UserError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    for part in expected:
        assert part in message


def test_a_head_other_than_the_one_wanted_is_refused(folder: Path, model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"holds a language model .*, a reward model is wanted"):
        load_model(folder, "score")
    save_model(folder, ScoreModel.from_language_model(model))
    with pytest.raises(UserError, match=r"holds a reward model .*, a language model is wanted"):
        load_model(folder, "language")


@pytest.mark.parametrize("given", [{"mean": 0.0, "std": 0.0}, {"mean": "x"}, 3])
def test_reward_normalisation_is_checked(folder: Path, model: LanguageModel, given: Any) -> None:
    save_model(folder, ScoreModel.from_language_model(model))
    set_key("reward_normalization", given)(folder)
    with pytest.raises(UserError, match="reward_normalization"):
        load_model(folder, "score")


def test_a_tokenizer_larger_than_the_embedding_is_refused(model: LanguageModel) -> None:
    check_vocabulary(model.config, 61)
    with pytest.raises(UserError, match=r"62 tokens.* 61 rows"):
        check_vocabulary(model.config, 62)


def test_a_failed_write_leaves_the_old_file(folder: Path, model: LanguageModel, monkeypatch: Any) -> None:
    before = (folder / "model.safetensors").read_bytes()

    def fail(*_args: Any, **_named: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("lit_llm.backbone.weights.save_file", fail)
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be written \(disk full\)"):
        save_model(folder, model)
    assert (folder / "model.safetensors").read_bytes() == before
    assert not list(folder.glob(".*"))
