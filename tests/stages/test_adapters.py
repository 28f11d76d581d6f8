"""LoRA in the stages that make or read a score head, and in continued pretraining: what trains, and what PEFT reads."""

import json

import pytest
import torch

from lit_llm.backbone.huggingface import load_model, save_model
from lit_llm.backbone.lora import TARGETS
from lit_llm.errors import UserError
from lit_llm.optim.schedules import constant
from lit_llm.stages.continued_pretraining import ContinuedPretraining
from lit_llm.stages.flag_classification import FlagClassification
from lit_llm.stages.options import ContinuedPretrainingOptions, FlagOptions
from lit_llm.stages.reward_modeling import RewardModeling
from tests.stages.training_run import Data, RandomRows, sgd, trainer_for
from tests.stages.training_run import tiny_model as tiny_text_model

from .test_flag_classification import answers
from .toy import loader, made, parts, rankings, tiny_model, trainer

SCORING = {
    RewardModeling: lambda: [rankings(8, seed=seed) for seed in range(4)],
    FlagClassification: lambda: [answers(16, seed=seed) for seed in range(4)],
}


def trained(kind, folder, **options):
    """A stage after four steps, its base in ``base/`` and what it saves in ``run/``."""
    model = tiny_model()
    save_model(folder / "base", model)
    options = {"lora_rank": 4, "lora_alpha": 8.0, "base_model": str(folder / "base"), **options}
    stage = made(kind, model=model, **parts(lr=0.05), **options)
    before = {name: weight.detach().clone() for name, weight in stage.model.named_parameters()}
    trainer(max_epochs=1).fit(stage, loader(SCORING[kind]()), loader(SCORING[kind]()[:1]))
    stage.eval()
    stage.save(folder / "run/model")
    return stage, before


@pytest.mark.parametrize("kind", SCORING)
def test_adapters_and_the_new_head_train_and_nothing_else(kind, tmp_path):
    stage, before = trained(kind, tmp_path)
    moved = {name for name, weight in stage.model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if ".lora_" in name or name == "score.weight"}
    assert len(moved) == 2 * 2 * len(TARGETS) + 1


@pytest.mark.parametrize("kind", SCORING)
def test_the_merged_folder_scores_as_the_stage_does(kind, tmp_path):
    stage, _ = trained(kind, tmp_path)
    batch = SCORING[kind]()[0]
    merged = load_model(tmp_path / "run/model", head="score").eval()
    with torch.no_grad():
        found, expected = (model.score_completions(batch.completions) for model in (merged, stage.model))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.1 and merged.label == stage.model.label


@pytest.mark.parametrize("kind", SCORING)
def test_peft_reads_the_adapter_with_its_head_and_gives_the_same_scores(kind, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    stage, _ = trained(kind, tmp_path)
    settings = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
    assert settings["task_type"] == "SEQ_CLS" and settings["modules_to_save"] == ["score"]
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "run/adapter").eval()
    batch = SCORING[kind]()[0]
    with torch.no_grad():
        normalised = stage.model.score_completions(batch.completions)
        expected = normalised * stage.model.reward_std + stage.model.reward_mean
        rows = [torch.tensor([*prompt, *completion])[None] for prompt, completion in batch.completions.rows]
        found = torch.cat([theirs(row).logits[0] for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_continued_pretraining_trains_adapters_and_peft_gives_the_same_logits(tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = tiny_text_model()
    save_model(tmp_path / "base", model)
    lora = {"lora_rank": 4, "lora_targets": ("q_proj", "down_proj"), "base_model": str(tmp_path / "base")}
    stage = ContinuedPretraining(ContinuedPretrainingOptions(**lora), model=model, optimizer=sgd, schedule=constant)
    frozen = {name: weight.clone() for name, weight in stage.model.named_parameters() if ".lora_" not in name}
    trainer_for(tmp_path, [], max_steps=6, limit_val_batches=0, enable_checkpointing=False).fit(
        stage, datamodule=Data()
    )
    stage.eval()
    stage.save(tmp_path / "run/model")
    assert all(torch.equal(weight, frozen[name]) for name, weight in stage.model.named_parameters() if name in frozen)
    ids = RandomRows(4).collate(range(4)).input_ids
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    before = base(ids).logits.detach()
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "run/adapter").eval()
    merged = load_model(tmp_path / "run/model").eval()
    with torch.no_grad():
        expected = stage.model.logits(stage.model(ids))
        torch.testing.assert_close(theirs(ids).logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(merged.logits(merged(ids)), expected, rtol=1e-4, atol=1e-4)
    assert (expected - before).abs().max() > 0.02  # it learned something


def test_what_adapters_do_not_go_with_is_refused():
    with pytest.raises(UserError, match=r"^stage.new_tokens: \['tensor'\]; with stage.lora_merge=false"):
        ContinuedPretrainingOptions(lora_rank=2, new_tokens=["tensor"], lora_merge=False)
    with pytest.raises(UserError, match=r"^stage.trained=head: trains no adapters; leave it or stage.lora_rank=2 out"):
        FlagClassification(FlagOptions(lora_rank=2, trained="head"), model=tiny_model(), **parts())
    for kind in (RewardModeling, FlagClassification, ContinuedPretraining):
        for options, message in (
            ({"lora_rank": -1}, "stage.lora_rank: -1"),
            ({"lora_rank": 2, "lora_alpha": 0.0}, "stage.lora_alpha: 0.0"),
            ({"lora_rank": 2, "lora_dropout": 1.0}, "stage.lora_dropout: 1.0"),
            ({"lora_rank": 2, "lora_targets": ["c_attn"]}, r"stage.lora_targets: \['c_attn'\] not in the model"),
        ):
            with pytest.raises(UserError, match=message):
                made(kind, model=tiny_model(), **parts(), **options)
