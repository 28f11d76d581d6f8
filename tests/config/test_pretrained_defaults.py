"""A model from elsewhere takes rates, lengths, batches for its size; what the user gives wins; decisions stay."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from lit_llm.backbone import huggingface
from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.config import schema
from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.pretrained_defaults import lines, settled, tell
from lit_llm.config.pretrained_model import Model, known
from lit_llm.config.pretrained_table import TABLE, rate
from lit_llm.config.validation import validate
from lit_llm.errors import UserError
from lit_llm.lineage import model_card
from lit_llm.text.bpe import train_bpe
from lit_llm.training.command import main
from lit_llm.training.train import run
from tests.chain_data import write_data

STAGES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/stage").glob("*.yaml"))
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11008, "max_position_embeddings": 4096,
}  # fmt: skip
NEEDED = {"ppo": ["stage.reward.folder=r"]} | {
    stage: ["data.path=p"] for stage in ("dpo", "kto", "reward_modeling", "flag_classification")
}


def folder(place: Path, **settings) -> Path:
    """A model folder as far as its shape goes."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(SMOLLM2 | settings))
    (place / "tokenizer.json").write_text("{}")
    (place / "model.safetensors").touch()
    return place


def lineage(place: Path, init_from: str | None = None, parent: dict | None = None, **config) -> Path:
    """A lineage of ours beside it."""
    parents = [] if parent is None else [{"role": "init_from", **parent}]
    told = {"config": {"init_from": init_from, **config}, "parents": parents}
    (place / "lineage.json").write_text(json.dumps(told))
    return place


@pytest.fixture
def smollm2(tmp_path):
    return folder(tmp_path / "smollm2")


def words(stage: str, model: Path, *more: str) -> list[str]:
    return [f"stage={stage}", f"init_from={model}", *NEEDED.get(stage, []), *more]


def taken(cfg) -> dict:
    return dict(OmegaConf.to_container(cfg.pretrained_defaults)["values"])


# Which values


@pytest.mark.parametrize(
    ("stage", "full", "lora"),
    [
        ("continued_pretraining", 1e-4, None),
        ("fine_tuning", 3e-4, 2e-4),
        ("instruction_tuning", 3e-4, 2e-4),
        ("dpo", 2e-6, 2e-5),
        ("kto", 1e-5, 1e-4),
        ("ppo", 1e-5, 1e-4),
        ("grpo", 1e-5, 1e-4),
    ],
)
def test_rates_of_135_million_weights(smollm2, stage, full, lora):
    cfg = compose("train", words(stage, smollm2))
    assert cfg.optimizer._target_ == "lit_llm.optim.adamw.adamw" and cfg.optimizer.lr == pytest.approx(full)
    if lora is not None:
        cfg = compose("train", words(stage, smollm2, "stage.lora_rank=16"))
        assert cfg.optimizer.lr == pytest.approx(lora) and cfg.pretrained_defaults.trained == "adapters"


def test_a_larger_model_takes_lower_rates_and_computes_less_at_once(tmp_path):
    model = folder(tmp_path / "llama", **LLAMA_7B | {"tie_word_embeddings": False})
    cfg = compose("train", words("instruction_tuning", model))
    assert cfg.pretrained_defaults.weights == 6_738_415_616  # Llama 2's own count
    assert cfg.optimizer.lr == pytest.approx(2e-5, rel=0.1) and cfg.data.micro_batch_size == 1


def test_rates_lie_on_a_line_of_logarithms_between_the_anchors():
    assert rate((3e-4, 2e-5), 135_000_000) == 3e-4 and rate((3e-4, 2e-5), 7_000_000_000) == 2e-5
    middle = round((135e6 * 7e9) ** 0.5)
    assert rate((3e-4, 2e-5), middle) == pytest.approx((3e-4 * 2e-5) ** 0.5, rel=0.02)
    assert rate((3e-4, 2e-5), 1000) == 3e-4 and rate((3e-4, 2e-5), 70_000_000_000) == 2e-5


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_adapters_are_trained_faster_and_large_models_slower(row):
    assert row.full[0] >= row.full[1] > 0 and row.lora[0] >= row.lora[1] >= row.full[1]
    assert row.micro[0] >= row.micro[1] >= 1 and (row.batch is None or row.batch % row.micro[0] == 0)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_composes_validates_and_says_what_it_takes(smollm2, stage):
    cfg = compose("train", words(stage, smollm2))
    validate(cfg)
    found = taken(cfg)
    for key, value in found.items():
        if key != "optimizer":
            assert OmegaConf.select(cfg, key) == value
    said = "\n".join(lines(schema.plain(cfg)))
    assert "134,515,008 weights" in said and f"optimizer.lr={found['optimizer.lr']}" in said and "tokens" in said
    assert cfg.data.get("max_length", 1024) == 1024 and cfg.evaluation.max_new_tokens == 256
    validate(schema.restored(schema.plain(cfg)))  # as it is saved and loaded


def test_a_head_alone_is_trained_as_fast_as_adapters(smollm2):
    assert compose("train", words("flag_classification", smollm2)).optimizer.lr == 5e-5
    assert compose("train", words("flag_classification", smollm2, "stage.trained=head")).optimizer.lr == 3e-4


def test_grpo_has_room_for_reasoning_and_text_for_whole_rows(smollm2):
    cfg = compose("train", words("grpo", smollm2))
    assert cfg.stage.max_new_tokens == 256 and cfg.data.max_prompt_length == 512
    assert cfg.data.micro_batch_size * cfg.stage.group_size % cfg.stage.minibatches == 0


@pytest.mark.parametrize("context", [32, pytest.param(256, marks=pytest.mark.slow), 700])
@pytest.mark.parametrize("stage", STAGES)
def test_lengths_stay_within_the_context(tmp_path, stage, context):
    cfg = compose("train", words(stage, folder(tmp_path / "m", max_position_embeddings=context)))
    assert cfg.data.get("max_length", 1) <= context and cfg.evaluation.max_new_tokens < context
    if "max_new_tokens" in cfg.stage:
        assert cfg.stage.max_new_tokens + cfg.data.max_prompt_length <= context


def test_a_reward_model_of_a_shorter_context_counts_too(tmp_path, smollm2):
    reward = folder(tmp_path / "reward", architectures=["LlamaForSequenceClassification"], max_position_embeddings=128)
    cfg = compose("train", words("ppo", smollm2, f"stage.reward.folder={reward}"))
    assert cfg.stage.max_new_tokens + cfg.data.max_prompt_length <= 128


def test_muon_where_it_is_chosen_takes_the_rate_that_its_update_is_scaled_to(smollm2):
    cfg = compose("train", words("continued_pretraining", smollm2, "optimizer=muon"))
    assert cfg.optimizer._target_.endswith("muon_adamw") and cfg.optimizer.lr == cfg.optimizer.muon_lr == 1e-4
    kept = compose("train", words("continued_pretraining", smollm2, "optimizer.muon_lr=0.002"))
    assert kept.optimizer._target_.endswith("muon_adamw") and kept.optimizer.muon_lr == 0.002


@pytest.mark.parametrize(
    ("more", "micro", "rows"),
    [
        ([], 2, 8),
        (["data.micro_batch_size=3"], 3, 9),
        (["data.micro_batch_size=16"], 16, 16),
        (["trainer.global_batch_size=9"], 1, 9),
        (["data.micro_batch_size=4", "trainer.global_batch_size=12"], 4, 12),
        (["trainer.devices=3"], 2, 6),
    ],
)
def test_a_step_is_a_whole_number_of_micro_batches(smollm2, more, micro, rows):
    cfg = compose("train", words("fine_tuning", smollm2, *more))
    assert (cfg.data.micro_batch_size, cfg.trainer.global_batch_size) == (micro, rows)


# What wins


@pytest.mark.parametrize(
    "word",
    ["optimizer.lr=0.0002", "data.max_length=256", "data.micro_batch_size=8", "trainer.max_steps=200",
     "evaluation.batch_size=64", "optimizer.weight_decay=0.5"],
)  # fmt: skip
def test_a_word_wins_also_where_it_says_what_conf_says(smollm2, word):
    cfg = compose("train", words("fine_tuning", smollm2, word))
    key, _, value = word.partition("=")
    assert OmegaConf.select(cfg, key) == float(value) and key not in taken(cfg)


def test_a_limit_of_the_users_own_is_the_only_one(smollm2):
    cfg = compose("train", words("fine_tuning", smollm2, "trainer.max_epochs=1"))
    assert cfg.trainer.max_steps is None and "trainer.val_check_interval" not in taken(cfg)


def test_an_experiment_file_wins(smollm2, tmp_path, monkeypatch):
    """By the command itself, with a stand-in for the run."""
    place = tmp_path / "mine/experiment"
    place.mkdir(parents=True)
    (place / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [{override /stage: continued_pretraining}]\n"
        "optimizer: {lr: 0.0003}\ndata: {max_length: 64}\n"
    )
    given: list = []
    monkeypatch.setattr("lit_llm.training.command.execute", lambda cfg, _folder: given.append(cfg) or {"val_loss": 1.0})
    argv = [f"--config-dir={tmp_path}/mine", "experiment=mine", f"init_from={smollm2}", f"hydra.run.dir={tmp_path}/run"]
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    main()
    (cfg,) = given
    assert cfg.optimizer.lr == 0.0003 and cfg.data.max_length == 64
    assert cfg.optimizer._target_.endswith("adamw") and cfg.data.micro_batch_size == 2  # what the file leaves open


def test_a_sweep_decides_for_each_job(smollm2, tmp_path, monkeypatch):
    given: list = []
    monkeypatch.setattr("lit_llm.training.command.execute", lambda cfg, _folder: given.append(cfg) or {"val_loss": 1.0})
    argv = ["-m", "stage=fine_tuning", f"init_from={smollm2}", "optimizer.lr=1e-5,3e-5", "stage.lora_rank=0,8",
            f"hydra.sweep.dir={tmp_path}/sweep"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["train.py", *argv])
    main()
    assert [cfg.optimizer.lr for cfg in given] == [1e-5, 1e-5, 3e-5, 3e-5]
    assert [cfg.pretrained_defaults.trained for cfg in given] == ["all", "adapters", "all", "adapters"]


def test_false_keeps_the_files_values_and_a_wrong_word_is_refused(smollm2):
    plain = compose("train", words("grpo", smollm2, "pretrained_defaults=false"))
    assert plain.optimizer.lr == 0.0006 and plain.stage.max_new_tokens == 32
    with pytest.raises(UserError, match="pretrained_defaults=yes please: must be auto, true or false"):
        check("train", hydra_words("train", words("grpo", smollm2, "pretrained_defaults=yes please")))


def test_what_is_only_shown_says_what_a_run_would_take(smollm2, capsys):
    check("train", hydra_words("train", ["--cfg=job", *words("continued_pretraining", smollm2)]))
    assert "#   optimizer=adamw optimizer.lr=0.0001" in capsys.readouterr().err


# For which models


def test_a_small_model_made_here_keeps_the_files_values(tmp_path):
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
    mine = lineage(folder(tmp_path / "mine", vocab_size=512, **small))
    tuned = lineage(folder(tmp_path / "tuned", vocab_size=512, **small), str(mine), {"digest": "d", "path": "../mine"})
    gone = lineage(folder(tmp_path / "gone", vocab_size=512, **small), "x", {"digest": "d", "path": "../nowhere"})
    for model in (mine, tuned, gone):
        cfg = compose("train", words("grpo", model))
        assert cfg.pretrained_defaults == "auto" and cfg.optimizer.lr == 0.0006, model
    assert compose("train", words("grpo", tuned, "pretrained_defaults=true")).optimizer.lr == 1e-5


def test_a_model_from_elsewhere_takes_the_table_and_so_does_what_is_made_of_it(tmp_path):
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
    theirs = folder(tmp_path / "theirs", **small)
    tuned = lineage(folder(tmp_path / "tuned", **small), str(theirs), {"digest": None, "path": "../theirs"})
    again = lineage(folder(tmp_path / "again", **small), str(tuned), {"digest": "d", "path": "../tuned"})
    alone = lineage(folder(tmp_path / "alone", **small), "x", {"digest": "d", "path": "../gone"},
                    pretrained_defaults={"weights": 1, "values": {}})  # fmt: skip
    for model in (theirs, tuned, again, alone):
        assert compose("train", words("grpo", model)).optimizer.lr == 1e-5, model


def test_a_large_model_made_here_takes_the_table(smollm2):
    assert compose("train", words("grpo", lineage(smollm2))).optimizer.lr == 1e-5


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"config": 1}'])
def test_a_lineage_that_cannot_be_read_is_none(smollm2, damage):
    (smollm2 / "lineage.json").write_text(damage)
    assert known(smollm2) == Model(134_515_008, 8192, ours=False)


def test_a_folder_that_cannot_be_read_is_left_to_what_loads_it(tmp_path):
    assert known(tmp_path / "nothing") is None
    assert compose("train", words("grpo", tmp_path / "nothing")).pretrained_defaults == "auto"


def test_the_weights_are_counted_before_torch_is_imported(smollm2):
    code = (
        "import sys; from lit_llm.config.command_line import compose; "
        f"print(compose('train', ['stage=dpo', 'data.path=p', 'init_from={smollm2}']).pretrained_defaults.weights); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "134515008\n"


# A pipeline


def test_a_pipeline_from_random_weights_is_as_its_file_says():
    cfg = compose("pipeline", [])
    assert cfg.pretrained_defaults == "auto" and all(one.pretrained_defaults == "auto" for one in cfg.stages.values())
    assert cfg.stages.ppo.stage.max_new_tokens == 40 and cfg.stages.fine_tuning.optimizer.muon_lr == 0.003


def test_a_pipeline_from_another_model_takes_the_table_in_every_stage_after_it(smollm2):
    given = ["start_from=instruction_tuning", f"init_from={smollm2}", "stages.dpo.optimizer.lr=0.0001"]
    cfg = compose("pipeline", given)
    validate(cfg)
    stages = cfg.stages
    assert stages.instruction_tuning.optimizer == {
        "_target_": "lit_llm.optim.adamw.adamw", "_partial_": True, "lr": 3e-4, "weight_decay": 0.01,
        "betas": [0.9, 0.95], "eps": 1e-8,
    }  # fmt: skip
    assert stages.ppo.optimizer.lr == 1e-5 and stages.dpo.optimizer.lr == 0.0001
    assert stages.pretraining.pretrained_defaults == "auto" and stages.pretraining.optimizer.lr == 0.03
    answers = {stages.ppo.stage.max_new_tokens, stages.ppo.evaluation.max_new_tokens, cfg.best_of_n.max_new_tokens,
               cfg.annotation.max_new_tokens}  # fmt: skip
    assert answers == {256}
    off = compose("pipeline", [*given, "pretrained_defaults=false"])
    assert off.stages.ppo.optimizer.lr == 0.0001 and off.annotation.max_new_tokens == 48


# What is decided stays


def test_a_resumed_run_keeps_what_was_decided_and_a_new_word_wins(smollm2, tmp_path):
    run = tmp_path / "run"
    first = words("continued_pretraining", smollm2, "data.micro_batch_size=1")
    schema.save(compose("train", first), run / "config.yaml")
    saved = OmegaConf.load(run / "config.yaml")
    saved.pretrained_defaults["values"]["optimizer.lr"] = 0.00007  # by the table of another day
    OmegaConf.save(saved, run / "config.yaml")
    folder(smollm2, num_hidden_layers=2, hidden_size=64)  # and the model's folder holds another by now
    again = compose("train", [*first, f"resume={run}"])
    assert again.optimizer.lr == 0.00007 and again.optimizer._target_.endswith("adamw")
    assert again.pretrained_defaults.weights == 134_515_008 and again.data.micro_batch_size == 1
    auto = compose("train", [*first, "resume=auto", f"hydra.run.dir={run}", "optimizer.lr=0.5"])
    assert auto.optimizer.lr == 0.5 and auto.data.max_length == 1024
    validate(again)


def test_a_run_from_before_the_table_goes_on_as_it_was(smollm2, tmp_path):
    saved = schema.plain(compose("train", words("grpo", smollm2, "pretrained_defaults=false")))
    del saved["pretrained_defaults"]
    schema.save(saved, tmp_path / "run/config.yaml")
    cfg = compose("train", words("grpo", smollm2, f"resume={tmp_path}/run"))
    assert cfg.optimizer.lr == 0.0006 and cfg.pretrained_defaults == "auto"


def test_an_unfinished_run_is_found_again(smollm2, tmp_path, monkeypatch):
    from lit_llm.config.folder_words import going_on
    from lit_llm.runtime.run_folder import RunFolder

    monkeypatch.chdir(tmp_path)
    given = words("grpo", smollm2, "resume=auto")
    run = tmp_path / "outputs/grpo/run"
    run.mkdir(parents=True)
    RunFolder(run).mark("running", schema.identity(compose("train", given)))
    assert going_on("train", hydra_words("train", given))[-1] == "hydra.run.dir=outputs/grpo/run"


def test_a_configuration_used_again_is_not_decided_anew(smollm2):
    from lit_llm.config.given_values import Given

    cfg = compose("train", words("grpo", smollm2))
    cfg.optimizer.lr = 0.25
    assert settled(cfg, Given).optimizer.lr == 0.25


# What is said


def test_the_block_names_values_reason_and_work(smollm2, caplog):
    cfg = compose("train", words("continued_pretraining", smollm2))
    with caplog.at_level(logging.INFO, logger="lit_llm"):
        tell(cfg)
    said = caplog.messages
    assert said[0] == (
        "a pretrained model of 134,515,008 weights (all trained): "
        "what was not given is taken from the table for its size"
    )
    assert said[1].split() == ["optimizer=adamw", "optimizer.lr=0.0001"]
    # 6 x 134,515,008 weights x 819,200 tokens / 50e9 operations a second
    assert any("at most 819,200 tokens in 100 steps of 8,192, about 4 h" in line for line in said)
    caplog.clear()
    tell(compose("train", ["stage=pretraining"]))
    assert not caplog.messages


def test_the_card_lists_what_was_chosen(smollm2):
    config = schema.plain(compose("train", words("dpo", smollm2)))
    record = {"stage": "dpo", "created": "", "simulated_preferences": False, "data": {}, "metrics": {}, "parents": [],
              "code": {"digest": "d"}, "packages": {}, "config": config}  # fmt: skip
    card = model_card.render(record)
    assert "## Values chosen by size" in card and "- `optimizer.lr=2e-06`" in card
    assert "## Values chosen by size" not in model_card.render(record | {"config": {}})


def test_a_run_is_made_of_them_and_saves_them(tmp_path):
    """A tiny model of another's making, fine-tuned: what was taken is what ran, in config.yaml, lineage and card."""
    write_data(tmp_path / "data")
    tokenizer = train_bpe([path.read_text() for path in (tmp_path / "data/task_pairs").iterdir()], vocab_size=300)
    shape = from_depth(tokenizer.vocab_size, 2, "llama", hidden_size=32, max_positions=128)
    huggingface.save_model(tmp_path / "theirs", LanguageModel(shape), tokenizer)
    given = ["stage=fine_tuning", f"init_from={tmp_path}/theirs", f"data.path={tmp_path}/data/task_pairs",
             f"data.cache_dir={tmp_path}/cache", "trainer.max_steps=1", "callbacks=none", "trainer=cpu",
             "evaluation.max_items=2", "evaluation.max_new_tokens=4", "trainer.limit_val_batches=1",
             "trainer.progress=false"]  # fmt: skip
    run(compose("train", given), tmp_path / "run")
    saved = schema.plain(schema.load(tmp_path / "run/config.yaml"))["pretrained_defaults"]
    assert saved["weights"] == shape.num_parameters and saved["values"]["optimizer.lr"] == 3e-4
    told = json.loads((tmp_path / "run/model/lineage.json").read_text())["config"]["pretrained_defaults"]
    assert told == saved and "evaluation.max_new_tokens" not in saved["values"]
    assert "- `data.max_length=128`" in (tmp_path / "run/model/README.md").read_text()
    assert known(tmp_path / "run/model") == Model(shape.num_parameters, 128, ours=False)


def adapter(folder, base, **config):
    """As PEFT leaves it: two files, and a config.json where ``config`` has any."""
    folder.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(2, 8)}, folder / "adapter_model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_s_weights_are_its_base_s(smollm2, tmp_path):
    assert known(adapter(tmp_path / "bare", smollm2)) == Model(134_515_008, 8192, ours=False)
    theirs = {"model_type": "cohere", "architectures": ["CohereForCausalLM"], "max_position_embeddings": 512}
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(theirs))
    save_file({"model.embed_tokens.weight": torch.zeros(100, 30)}, other / "model.safetensors")
    assert known(other) == Model(3000, 512, ours=False)
    assert known(adapter(tmp_path / "of_other", other)) == Model(3000, 512, ours=False)
    own = adapter(tmp_path / "own", other, **(theirs | {"max_position_embeddings": 256}))
    assert known(own) == Model(3000, 256, ours=False)


def test_checks_fetch_no_base(tmp_path, monkeypatch):
    """What is looked at before a run begins asks no network, with the base in the hub's cache or not."""
    from lit_llm.config.paths import _model
    from lit_llm.model_sources import hub

    place = adapter(tmp_path / "adapter", "some-owner/some-model")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "folder_of", lambda text: pytest.fail(f"fetched {text}"))
    assert list(_model("init_from", str(place))) == [] and known(place) is None
    (place / "adapter_model.safetensors").unlink()
    [line] = _model("init_from", str(place))
    assert line == f"init_from={place}: an adapter without weights (no adapter_model.safetensors); give a whole one"
