"""Runs that hand an adapter on, and what a merge into 16 bits costs: metrics.json, lineage, what is refused."""

import json
import logging

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import load_model, save_model
from lit_llm.backbone.loaded import LoadedModel
from lit_llm.backbone.lora import adapted
from lit_llm.backbone.models import LanguageModel
from lit_llm.config.command_line import compose
from lit_llm.errors import UserError
from lit_llm.evaluation.heldout import evaluate
from lit_llm.evaluation.sets import read_all
from lit_llm.export.command import whole
from lit_llm.lineage.verification import verify
from lit_llm.text.bpe import train_bpe
from lit_llm.text.tokenizer import load_tokenizer
from lit_llm.training.build import load
from lit_llm.training.evaluate_command import Evaluate, evaluate_again
from lit_llm.training.train import run
from tests.chain_data import write_data

OWN = [
    "stage.lora_rank=2", "stage.lora_alpha=4", "data.max_length=256", "data.micro_batch_size=2", "trainer.max_steps=3",
    "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.val_check_interval=null", "callbacks=none",
    "trainer.progress=false", "optimizer.lr=0.05", "evaluation.max_items=4", "evaluation.generate=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """``data/``, ``base/`` in bfloat16, and a run ``tuned/`` that handed its adapter on."""
    place = tmp_path_factory.mktemp("adapters")
    write_data(place / "data")
    tokenizer = train_bpe(["It returns the file. What does open_file do?"] * 4, vocab_size=290, show_progress=False)
    torch.manual_seed(0)
    base = LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=256))
    save_model(place / "base", base, tokenizer, dtype=torch.bfloat16)
    made(place, "fine_tuning", "task_pairs", place / "base", "tuned", "stage.lora_merge=false")
    return place


def words(place, stage, data, start, *more):
    given = [f"stage={stage}", f"init_from={start}", f"data.path={place}/data/{data}", f"data.cache_dir={place}/cache"]
    return compose("train", [*given, *OWN, *more])


def made(place, stage, data, start, name, *more):
    run(words(place, stage, data, start, *more), place / name)
    return json.loads((place / name / "metrics.json").read_text())


def mean(metrics, when, one, measure="bits_per_byte"):
    return metrics[when][one][measure]["mean"]


def test_a_chain_of_adapters_keeps_its_base_and_begins_where_the_last_one_ended(place):
    second = made(place, "instruction_tuning", "instructions", place / "tuned/model", "chat", "stage.lora_merge=false")
    assert not list((place / "chat/model").glob("model*")) and not (place / "chat/adapter").exists()
    settings = json.loads((place / "chat/model/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(place / "base")
    [again] = evaluate_again(Evaluate(place / "chat"))
    name = again.name
    assert again.as_metrics()["bits_per_byte"]["mean"] == pytest.approx(mean(second, "heldout", name), rel=1e-6)
    [heldout] = [one for one in read_all(place / "chat/heldout") if one.name == name]
    start = load_model(place / "tuned/model")
    found = evaluate(start, load_tokenizer(place / "tuned/model"), heldout, max_items=4, generate=False)
    assert mean(second, "before", name) == pytest.approx(found.as_metrics()["bits_per_byte"]["mean"], rel=1e-6)
    assert mean(second, "before", name) != mean(second, "heldout", name) and "merge" not in second
    folders, differences = verify(place / "chat/model")
    assert not differences and len(folders) >= 2
    assert 'base_model: "base"' in (place / "chat/model/README.md").read_text()


def test_a_merge_into_bfloat16_is_measured_before_and_after(place, caplog):
    with caplog.at_level(logging.INFO, "lit_llm"):
        metrics = made(place, "instruction_tuning", "instructions", place / "tuned/model", "merged")
    merge = metrics["merge"]
    assert (merge["stored"], merge["measure"]) == ("bfloat16", "bits_per_byte")
    assert merge["merged"] == mean(metrics, "heldout", merge["set"])
    assert merge["difference"] == merge["merged"] - merge["adapters"] and 0 < abs(merge["difference"]) < 0.05
    [heldout] = [one for one in read_all(place / "merged/heldout") if one.name == merge["set"]]
    tokenizer = load_tokenizer(place / "merged/model")
    for folder, expected in (("model", merge["merged"]), ("adapter", merge["adapters"])):
        network = load_model(place / "merged" / folder, keep_adapter=folder == "adapter")
        model = LoadedModel(network, tokenizer).model
        scores = evaluate(model, tokenizer, heldout, max_items=4, generate=False).as_metrics()
        assert scores["bits_per_byte"]["mean"] == pytest.approx(expected, rel=1e-5), folder
    assert "merged into bfloat16: " in caplog.text
    assert "Merging the adapters into bfloat16 changed" in (place / "merged/model/README.md").read_text()


def test_all_weights_of_an_adapter_s_model_can_be_trained(place, caplog):
    with caplog.at_level(logging.INFO, "lit_llm"):
        none = ["stage.lora_rank=0", "stage.lora_targets=[q_proj]"]  # as a run of a sweep over ranks
        stage = load(words(place, "instruction_tuning", "instructions", place / "tuned/model", *none),
                     place / "full").stage  # fmt: skip
    assert f"an adapter of {place}/base; the two, merged," in caplog.text
    assert "without adapters; stage.lora_alpha=4 stage.lora_targets=[q_proj] counts for nothing" in caplog.text
    assert all(weight.requires_grad for weight in stage.model.parameters())
    for one, other in zip(stage.model.parameters(), load_model(place / "tuned/model").parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_export_is_of_the_merged_model(place):
    with whole(place / "tuned/model", place / "exports/new") as folder:
        found, expected = load_model(folder), load_model(place / "tuned/model")
        assert found.stored.main == torch.bfloat16
        base, layers = load_model(place / "base"), adapted(load_model(place / "tuned/model", keep_adapter=True))
        changed = set()
        for (name, one), merged, bare in zip(
            found.named_parameters(), expected.parameters(), base.parameters(), strict=True
        ):
            assert torch.equal(one, merged.to(torch.bfloat16).float()), name
            changed |= set() if torch.equal(one, bare) else {name}
        assert changed == {f"{name}.weight" for name in layers}  # the bare base would not do
    assert not folder.exists()


def test_what_cannot_be_handed_on_is_refused(place):
    chat = [place, "instruction_tuning", "instructions"]
    with pytest.raises(UserError, match=r"^stage.lora_rank=4: the stage starts.*: give stage.lora_rank=2"):
        load(words(*chat, place / "tuned/model", "stage.lora_rank=4"), place / "x")
    with pytest.raises(UserError, match=r"trainer.save_dtype=float32: no weights are saved"):
        load(words(*chat, place / "base", "stage.lora_merge=false", "trainer.save_dtype=float32"), place / "x")
