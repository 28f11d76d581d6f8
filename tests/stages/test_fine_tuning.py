"""Fine-tuning and instruction tuning: all weights or adapters, noise on the embeddings, what is saved."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lit_llm.backbone.huggingface import load_model
from lit_llm.errors import UserError
from lit_llm.optim.adamw import adamw
from lit_llm.optim.schedules import constant
from lit_llm.stages.fine_tuning import FineTuning
from lit_llm.stages.instruction_tuning import InstructionTuning
from lit_llm.stages.language import LanguageStage
from lit_llm.stages.options import SupervisedOptions
from lit_llm.stages.supervised import add_embedding_noise
from tests.stages.training_run import Data, RandomRows, tiny_model, trainer_for

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def make(kind: type[LanguageStage] = FineTuning, **values: Any) -> LanguageStage:
    def optimizer(module: nn.Module) -> torch.optim.Optimizer:
        return adamw(module, lr=0.02)

    return kind(SupervisedOptions(**values), model=tiny_model(), optimizer=optimizer, schedule=constant)


def fit(stage: LanguageStage, folder: Path) -> None:
    trainer = trainer_for(folder, [], max_steps=60, limit_val_batches=0, enable_checkpointing=False)
    trainer.fit(stage, datamodule=Data(4, 4))


@pytest.mark.parametrize("kind", [FineTuning, InstructionTuning])
def test_all_weights_are_trained(tmp_path: Path, kind: type[LanguageStage]) -> None:
    stage = make(kind)
    before = {name: weight.clone() for name, weight in stage.model.named_parameters()}
    fit(stage, tmp_path)
    assert all(not torch.equal(weight, before[name]) for name, weight in stage.model.named_parameters())


def test_lora_trains_adapters_alone_and_saves_both_ways(tmp_path: Path) -> None:
    stage = make(lora_rank=4, lora_dropout=0.0, base_model="some/base")
    base = {name: weight.clone() for name, weight in stage.model.named_parameters() if not weight.requires_grad}
    first = float(stage.loss(RandomRows(4).collate(range(4)))[0])
    fit(stage, tmp_path)
    for name, weight in stage.model.named_parameters():
        assert not (name in base and not torch.equal(weight, base[name])), name
    batch = RandomRows(4).collate(range(4))
    assert float(stage.loss(batch)[0]) < 0.95 * first
    stage.save(tmp_path / "model")
    merged = load_model(tmp_path / "model")
    stage.eval()
    torch.testing.assert_close(merged(batch.input_ids), stage.model(batch.input_ids), rtol=1e-4, atol=1e-4)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 4 and settings["base_model_name_or_path"] == "some/base"
    assert any("lora" in name for name, _ in stage.model.named_parameters())  # saving did not merge the trained one


def test_noise_only_while_training_and_of_the_papers_size() -> None:
    embedding = nn.Embedding(8, 16)
    ids = torch.zeros(3, 25, dtype=torch.int64)
    clean = embedding(ids)
    add_embedding_noise(embedding, 5.0)
    noise = (embedding.train()(ids) - clean).detach()
    limit = 5.0 / (25 * 16) ** 0.5
    assert 0.95 * limit < noise.abs().max() <= limit
    assert noise.std() == pytest.approx(limit / 3**0.5, rel=0.1)  # of a uniform distribution
    assert torch.equal(embedding.eval()(ids), clean)
    stage = make(neftune_noise_alpha=5.0)
    batch = RandomRows(4).collate(range(4))
    assert stage.train().loss(batch)[0] != stage.loss(batch)[0]
    assert stage.eval().loss(batch)[0] == stage.loss(batch)[0]


@pytest.mark.parametrize("values", [{"lora_rank": -1}, {"neftune_noise_alpha": -1.0}])
def test_bad_values_are_named(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"stage.{next(iter(values))}"):
        make(**values)
