"""``from lit_llm import ...``: every name, its type in the stub, and nothing heavy before it is asked for."""

import ast
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

import lit_llm
from lit_llm.errors import UserError
from lit_llm.stages.adherence import Adherence
from lit_llm.stages.reference_store import KnownLogps


def test_every_name_is_what_its_module_defines():
    for name in lit_llm.__all__:
        found = getattr(lit_llm, name)
        assert found.__name__ == ("PreferenceOptimization" if name == "DPO" else name)


def test_the_stub_names_the_same():
    stub = ast.parse(Path(lit_llm.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    named = {alias.asname: node.module for node in imports for alias in node.names}
    assert set(named) | {"DPO"} == set(lit_llm.__all__)
    assert all(getattr(lit_llm, name).__module__ == module for name, module in named.items())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"has no Pretrainig; it has .*Pretraining"):
        _ = lit_llm.Pretrainig


def test_the_package_alone_imports_no_torch():
    code = "import lit_llm, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Under a stock Trainer


def texts(number=40):
    words = ("red", "green", "blue", "old", "new")
    return [f"The {words[n % 5]} house number {n} has a door and {n % 7} windows." for n in range(number)]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tokenizer, a folder of a tiny model, and files of every kind."""
    folder = tmp_path_factory.mktemp("world")
    tokenizer = lit_llm.train_bpe(texts(), 300, show_progress=False)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_heads": 2, "head_dim": 16, "intermediate_size": 64, "max_positions": 96}
    model = lit_llm.LanguageModel(lit_llm.from_depth(tokenizer.vocab_size, depth=1, **shape))
    lit_llm.save_model(folder / "model", model, tokenizer)
    questions = [f"Which colour has house {n}?" for n in range(40)]
    rows = {
        "texts": [{"text": text} for text in texts()],
        "instructions": [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "Red."}]} for q in questions
        ],
        "rankings": [{"prompt": q, "chosen": "Red.", "rejected": "I do not know it."} for q in questions],
        "prompts": [{"prompt": q} for q in questions],
    }
    for name, values in rows.items():
        lines = "\n".join(json.dumps(value) for value in values)
        (folder / f"{name}.jsonl").write_text(lines + "\n", encoding="utf-8")
    return folder


CASES = {
    "Pretraining": ("RawText", "texts", {"max_length": 32}, "general"),
    "InstructionTuning": ("Instructions", "instructions", {"max_length": 64}, "instructions"),
    "PreferenceOptimization": ("Preferences", "rankings", {"max_length": 64}, "rankings"),
    "RewardModeling": ("Preferences", "rankings", {"max_length": 64}, "rankings"),
    "PPO": ("Prompts", "prompts", {"max_prompt_length": 40, "micro_batch_size": 4}, "prompts"),
}


def short(prompts, completions):  # noqa: ARG001
    return [-float(len(text)) for text in completions]


def made(name, world, **given):
    """A stage from the world's model folder, with the defaults of its class, and its data."""
    kind, (data, file, values, _) = getattr(lit_llm, name), CASES[name]
    options = kind.Options(max_new_tokens=8) if name == "PPO" else None
    live = {"reward": short} if name == "PPO" else {}
    stage = kind(options, model=world / "model", **live, **given)
    shares = {"validation_fraction": 0.2, "test_fraction": 0.2, "cache_dir": str(world / "cache")}
    data_class = getattr(lit_llm, data)
    told = data_class.Options(path=str(world / f"{file}.jsonl"), **values, **shares)
    return stage, data_class(told, tokenizer=stage.tokenizer), live


def stock(folder, **given):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return L.Trainer(accelerator="cpu", default_root_dir=folder, **quiet, **{"max_steps": 2, "devices": 1, **given})


@pytest.mark.parametrize("name", CASES)
def test_a_stock_trainer_fits_validates_tests_predicts_and_loads(name, world, tmp_path):
    stage, data, live = made(name, world)
    checkpoints = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1)
    trainer = stock(tmp_path, callbacks=[checkpoints])
    trainer.fit(stage, datamodule=data)
    assert trainer.global_step >= 2
    assert "val/loss" in trainer.validate(stage, datamodule=data, verbose=False)[0]

    tested = {
        key: value for found in trainer.test(stage, datamodule=data, verbose=False) for key, value in found.items()
    }
    assert any(key.startswith(f"test/{CASES[name][3]}/") for key in tested), tested
    assert ("test/prompts/score/reward" in tested) == (name == "PPO")

    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    again = type(stage).load_from_checkpoint(path, **live)
    for key, value in stage.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert again.options == stage.options
    assert again.tokenizer.fingerprint() == stage.tokenizer.fingerprint()
    ids = torch.randint(3, 200, (2, 7))
    scores = again(ids)
    assert scores.shape == ((2,) if name == "RewardModeling" else (2, 7, again.model.config.vocab_size))
    assert torch.equal(stage.eval()(ids), again.eval()(ids))

    prompts = data if name in ("PPO", "RewardModeling") else None
    asked = DataLoader(["Which colour?", "And why?"], batch_size=2, collate_fn=list)
    given = {"datamodule": prompts} if prompts else {"dataloaders": asked}
    first, second = trainer.predict(stage, **given), stock(tmp_path).predict(again, **given)
    assert str(first) == str(second)
    assert name == "RewardModeling" or all(isinstance(text, str) for texts in flat(first) for text in texts)
    again_tested = stock(tmp_path).test(again, datamodule=data, verbose=False)
    found = {key: value for each in again_tested for key, value in each.items()}
    assert all(found[key] == pytest.approx(tested[key], nan_ok=True) for key in found)


def flat(found):
    return [each for part in found for each in (part if isinstance(part[0], list) else [part])]


def test_a_loaded_policy_learns_on_only_beside_its_start(world, tmp_path):
    stage, data, _ = made("PreferenceOptimization", world)
    trainer = stock(tmp_path, max_steps=1)
    trainer.fit(stage, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = lit_llm.DPO.load_from_checkpoint(tmp_path / "a.ckpt")
    again._known = KnownLogps({})
    with pytest.raises(UserError, match="the reference is in no checkpoint"):
        stock(tmp_path).fit(again, datamodule=data)
    begun = lit_llm.DPO.load_from_checkpoint(tmp_path / "a.ckpt", model=world / "model")
    assert not torch.equal(begun.model.lm_head.weight, begun.reference.lm_head.weight)
    stock(tmp_path, max_steps=1).fit(begun, datamodule=data)


def test_a_policy_s_checkpoint_asks_for_the_reward_again(tmp_path):
    with pytest.raises(UserError, match="holds no reward; give it again"):
        lit_llm.PPO.load_from_checkpoint(tmp_path / "a.ckpt")


def test_an_old_checkpoint_asks_for_the_model(world, tmp_path):
    stage, data, _ = made("Pretraining", world)
    trainer = stock(tmp_path, max_steps=1)
    trainer.fit(stage, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    old = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del old["components"]
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match="does not say what network it is of; give model="):
        lit_llm.Pretraining.load_from_checkpoint(tmp_path / "old.ckpt")
    again = lit_llm.Pretraining.load_from_checkpoint(tmp_path / "old.ckpt", model=world / "model")
    assert torch.equal(again.model.lm_head.weight, stage.model.lm_head.weight)
    assert again.tokenizer is not None


def test_adapters_come_back(world, tmp_path):
    options = lit_llm.InstructionTuning.Options(lora_rank=2)
    stage = lit_llm.InstructionTuning(options, model=world / "model")
    _, data, _ = made("InstructionTuning", world)
    trainer = stock(tmp_path, max_steps=1)
    trainer.fit(stage, datamodule=data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = lit_llm.InstructionTuning.load_from_checkpoint(tmp_path / "a.ckpt")
    ids = torch.randint(3, 200, (1, 5))
    assert torch.equal(stage.eval()(ids), again.eval()(ids))


def test_nothing_held_out_is_said(world, tmp_path):
    stage, data, _ = made("Pretraining", world)
    path = str(world / "texts.jsonl")
    told = lit_llm.RawText.Options(path=path, max_length=32, test_fraction=0.0, cache_dir=str(tmp_path))
    data = lit_llm.RawText(told, tokenizer=stage.tokenizer)
    with pytest.raises(UserError, match=r"data\.test_fraction=0.0: no row is held out for a test"):
        stock(tmp_path).test(stage, datamodule=data)


def test_two_processes_fit_test_and_predict(world, tmp_path):
    stage, data, _ = made("InstructionTuning", world)
    options = {"devices": 2, "strategy": "ddp_fork", "max_steps": 1}
    data.prepare_data()
    trainer = stock(tmp_path, **options)
    trainer.fit(stage, datamodule=data)
    found = stock(tmp_path, **options).test(stage, datamodule=data, verbose=False)
    alone = stock(tmp_path).test(stage, datamodule=data, verbose=False)
    assert found[0]["test/instructions/nll"] == pytest.approx(alone[0]["test/instructions/nll"])


def test_a_stock_trainer_goes_on_within_an_epoch(world, tmp_path):
    stage, data, _ = made("InstructionTuning", world)
    stock(tmp_path, max_steps=1).fit(stage, datamodule=data)
    stage.trainer.save_checkpoint(tmp_path / "a.ckpt")
    again, data, _ = made("InstructionTuning", world)
    trainer = stock(tmp_path, max_steps=3)
    trainer.fit(again, datamodule=data, ckpt_path=tmp_path / "a.ckpt")
    assert trainer.global_step == 3


def test_the_documentation_s_blocks_run_as_they_stand(tmp_path, monkeypatch):
    page = Path(lit_llm.__file__).with_name("README.md").read_text(encoding="utf-8")
    section = page.split("## The components without Hydra\n")[1].split("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    # A module of its own, which its dataclasses look their names up in.
    module = types.ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)
    for number, block in enumerate(blocks):
        exec(compile(block, f"block {number}", "exec"), module.__dict__)


@pytest.mark.parametrize("name", ["ContinuedPretraining", "GRPO", "FlagClassification", "RewardModeling"])
def test_what_a_stage_has_beside_weights_comes_back(name, world, tmp_path):
    kind = getattr(lit_llm, name)
    values = {"ContinuedPretraining": {"new_tokens": ["zebra"]}, "RewardModeling": {"adherence": "learned"}}
    live = {"reward": short} if name == "GRPO" else {}
    stage = kind(kind.Options(**values.get(name, {})), model=world / "model", **live)
    if name == "FlagClassification":
        stage.model.threshold = 0.25
    if name == "RewardModeling":
        stage.adherence = Adherence(["ann", "bob"], {"ann": 3, "bob": 7}, 10.0, 10.0)
    stock(tmp_path, limit_predict_batches=0).predict(stage, DataLoader([0]))
    stage.trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = kind.load_from_checkpoint(tmp_path / "a.ckpt", **live)
    assert again.state_dict().keys() == stage.state_dict().keys()
    assert again.tokenizer.encode("zebra") == stage.tokenizer.encode("zebra")
    assert getattr(again.model, "threshold", None) == getattr(stage.model, "threshold", None)
    if name == "RewardModeling":
        assert again.adherence.comparisons() == {"ann": 3, "bob": 7}
        assert torch.equal(again.adherence.parts, stage.adherence.parts)


@pytest.mark.parametrize("name", CASES)
def test_without_an_optimizer_a_stage_takes_adamw_at_its_own_rate(name, world):
    stage, _, _ = made(name, world)
    optimizer = stage.make_optimizer(stage.model)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["lr"] for group in optimizer.param_groups} == {type(stage).default_lr}
    assert stage.make_schedule(optimizer, 10).get_last_lr()[0] == type(stage).default_lr


def test_a_folder_of_another_head_is_refused(world, tmp_path):
    lit_llm.RewardModeling(model=world / "model").save(tmp_path / "scores")
    with pytest.raises(UserError, match="a language model is wanted"):
        lit_llm.Pretraining(model=str(tmp_path / "scores"))
