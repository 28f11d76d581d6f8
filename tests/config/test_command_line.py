"""What the user is told when Hydra stands between a mistake and its message."""

import json
import signal
import sys
from importlib.util import find_spec

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lit_llm.config import command_line, hydra_node, schema
from lit_llm.config.command_line import _own, check, command, compose
from lit_llm.config.help import options_first, text_for
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.overrides import quoted, text_of
from lit_llm.errors import UserError
from lit_llm.training.evaluate_command import trusted


def test_the_message_inside_hydras_is_found(tmp_path):
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "lit_llm.rewards.learned.LearnedReward", "folder": str(tmp_path / "nowhere")})
    found = _own(caught.value)
    assert isinstance(found, UserError) and "nowhere" in str(found) and "\n" not in str(found)
    assert _own(ValueError("of somebody else")) is None


@pytest.fixture
def registered():
    schema.register()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("config", "words", "place"),
    [
        ("train", ["stage=pretraining", "schedule=linear"], "schedule"),
        ("train", ["run=pretraining", "schedule=linear", "schedule.warmup_ratio=0.2"], "schedule"),
        ("pipeline", ["optimizer@stages.pretraining.optimizer=adamw"], "stages.pretraining.optimizer"),
    ],
)
def test_another_option_takes_no_value_of_the_experiment_s_own(config, words, place):
    check(config, hydra_words(config, words))  # decay_ratio, muon_lr and momentum would be unknown keys
    chosen = OmegaConf.select(compose(config, words), place)
    assert "decay_ratio" not in chosen and "muon_lr" not in chosen
    assert chosen.get("warmup_ratio") in (0.05, 0.2, None) and chosen.get("weight_decay", 0.1) == 0.1


@pytest.mark.usefixtures("registered")
def test_a_value_that_the_user_gives_the_other_option_is_not_taken_away():
    with pytest.raises(UserError, match=r"schedule\.decay_ratio"):
        check("train", hydra_words("train", ["stage=pretraining", "schedule=linear", "schedule.decay_ratio=0.5"]))


def refused(config, *words):
    with pytest.raises(UserError) as error:
        check(config, hydra_words(config, options_first(words)))
    return str(error.value)


@pytest.mark.parametrize(
    "name", ["a b", "a=b", "a'b", "a\\'b", "end\\", "a,b", "[x]", "{y}", "1_000", "null", "${x}", "$x", "a#b", "文 (1)"]
)
def test_a_text_is_taken_literally_whatever_is_special_in_it(name):
    assert text_of(quoted(name)) == name
    assert compose("train", [f"init_from={quoted(name)}"]).init_from == name


@pytest.mark.parametrize("name", ["a=b", "1_000", "c, d", "[x] 'y'"])
def test_places_of_any_name_are_found_as_they_are_typed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.txt").write_text("text")
    check("train", hydra_words("train", [f"data.path={name}", "data.name=1_000"]))
    cfg = compose("train", [f"data.path={name}", "data.name=1_000", f"resume={name}"])
    assert (cfg.data.path, cfg.data.name, cfg.resume) == (name, "1_000", name)


def test_options():
    assert options_first(["a=1", "-m", "--info", "b=2", "-c", "job"]) == [
        "--multirun", "--info=all", "--cfg=job", "a=1", "b=2",
    ]  # fmt: skip
    assert refused("train", "--mutlirun") == "--mutlirun: unknown option; did you mean --multirun?"
    assert refused("train", "--cfg") == "--cfg: needs a value (job, hydra, all)"
    assert refused("train", "--experimental-rerun", "x").startswith("--experimental-rerun: it reads a pickle")
    assert refused("train", "--config-dir", "nowhere").startswith("--config-dir=nowhere: no such folder")


@pytest.mark.parametrize("config", ["train", "pipeline"])
def test_help_fits_on_a_screen_or_two(config):
    text = text_for(config)
    assert len(text.splitlines()) < 50 and max(map(len, text.splitlines())) <= 120 and "_target_" not in text
    assert "reward_modeling" in text and "--multirun" in text


@pytest.mark.parametrize(
    ("config", "word", "line"),
    [
        ("pipeline", "stage=reward_modeling", "stage=reward_modeling: a key of one step; write stages.STEP.stage="),
        ("pipeline", "debug=fast_dev_run", "debug=fast_dev_run: keeps no model"),
        ("train", "loss=dpo", "stage.loss: this stage takes no loss"),
        ("train", "optimizer.lr=1e-3,1e-4", "optimizer.lr=1e-3,1e-4: several values are a sweep; add --multirun"),
        pytest.param(
            "train",
            "hydra/launcher=ray",
            "hydra/launcher=ray: Hydra's plugin for it is not installed; pip install 'lit-llm[ray]'",
            marks=pytest.mark.skipif(find_spec("ray") is not None, reason="it is there"),
        ),
        ("train", "data.micro_batch_size=aut", "data.micro_batch_size='aut': must be int or auto"),
        ("train", "pipelin", "pipelin: not key=value; did you mean pipeline? (--help lists the keys)"),
        ("train", "instruction_tunin", "instruction_tunin: not key=value; did you mean stage=instruction_tuning?"),
        ("train", "data.max_length=100000", "data.max_length=100000: the model's context is 512"),
        ("train", "data.path=nowhere.txt", "data.path=nowhere.txt: no such file or folder"),
        ("train", "init_from=org/name", "init_from=org/name: no such folder; a model of the Hugging Face hub"),
        ("train", "data.name=${oc.env:HOME}", "data.name=${oc.env:HOME}: would be written in clear"),
        ("train", "hydra.run.dir=${oc.env:HOME}/x", "hydra.run.dir=${oc.env:HOME}/x: would be written in clear"),
        ("train", "hydra.launcher._target_=os.system", "hydra.launcher._target_=os.system: not under"),
        ("train", "+hydra.callbacks.x._target_=lit_llm.training.build.torch.load", "hydra.callbacks.x._target_="),
        ("train", "hydra.job_logging.handlers.console.class=os.system", "hydra.job_logging.handlers.console.class="),
        (
            "train",
            "hydra.output_subdir=${oc.env:HOME}",
            "hydra.output_subdir=${oc.env:HOME}: would be written in clear",
        ),
        (
            "train",
            "+hydra.callbacks.x=${hydra.job.env_set}",
            "hydra.callbacks.x=${hydra.job.env_set}: write the values",
        ),
        ("train", "+reward@hydra.callbacks.x=function", "hydra.callbacks.x._target_=lit_llm.rewards.function."),
        ("train", "evaluation.objective=generl/bits_per_byte", "evaluation.objective=generl/bits_per_byte: the data"),
        ("train", "evaluation.objective=general/bpb", "evaluation.objective=general/bpb: no such measure"),
    ],
)
def test_the_first_line_says_what_is_wrong(config, word, line):
    assert refused(config, word).splitlines()[0].startswith(line)


def test_a_debug_overlay_reaches_every_stage_of_a_pipeline():
    stages = compose("pipeline", ["debug=limit"]).stages
    assert {stage.trainer.max_steps for stage in stages.values()} == {5}


def test_adapters_without_a_base_and_runs_are_told_from_models(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "run/model/config.json").write_text("{}")
    assert "base_model_name_or_path=None should name the model" in refused("train", f"init_from={tmp_path}/adapter")
    assert f"give the model in it, {tmp_path}/run/model" in refused("train", f"init_from={tmp_path}/run")
    assert "no tokenizer.json" in refused("train", f"init_from={tmp_path}/run/model")
    (tmp_path / "run/model/tokenizer.json").write_text("{}")
    (tmp_path / "run/model/pytorch_model.bin").write_text("")
    assert "pickled weights only" in refused("train", f"init_from={tmp_path}/run/model")
    reward = ["stage=ppo", f"init_from={tmp_path}", f"stage.reward.folder={tmp_path}/adapter"]
    assert any(line.startswith("stage.reward.folder=") for line in refused("train", *reward).splitlines())


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"trainer:\n\tmax_steps: 3\n", ":2: a tab"),
        (b"\xef\xbb\xbfseed: 1\n", ":1: begins with a byte order mark"),
        (b"seed: 1\nx: \xff\n", ":2: not UTF-8"),
        (b"\x00\x01", "cannot be in YAML"),
        (b"- a\n- b\n", "holds a list; a mapping"),
        (b"words\n", "holds one value; a mapping"),
        (b"seed: 1\nseed: 2\n", ":2: the key seed is there twice"),
        (BOMB.encode(), "values with its aliases written out"),
        (b"a: &a\n  b: *a\n", "is a part of itself"),
        (b"a: " + b"[" * 1500, "nested too deep"),
        (b"a: !!python/object/apply:os.system [x]\n", "the tag"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, content, line):
    """As an experiment, as a run's saved configuration, and as its saved overrides."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/mine.yaml").write_bytes(content)
    found = refused("train", "--config-dir", str(tmp_path / "conf"), "experiment=mine")
    assert line in found and "\n" not in found and "mine.yaml" in found
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError) as error:
        schema.load(tmp_path / "config.yaml")
    assert line in str(error.value) and "\n" not in str(error.value)
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_bytes(content)
    if not content.startswith(b"- a"):  # a list is what that file holds
        assert "overrides.yaml" in refused("train", f"resume={tmp_path}")


def test_saved_overrides_of_a_stranger_bring_no_code(tmp_path):
    (tmp_path / ".hydra").mkdir()
    words = ["allowed_targets=[os.]", "hydra.launcher._target_=os.system", "+stage.x._target_=os.system", "seed=3"]
    (tmp_path / ".hydra/overrides.yaml").write_text("".join(f"- '{word}'\n" for word in words))
    kept = hydra_words("train", [f"resume={tmp_path}"])
    assert "seed=3" in kept and not [word for word in kept if word.startswith(("allowed_targets", "hydra.launcher"))]
    assert "stage.x._target_=os.system: not under lit_llm." in refused("train", f"resume={tmp_path}")


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("stage.reward.function=os.system", True),
        ("+stage.gold={parts: [{reward: {function: os.system}}]}", True),
        ("stage.gold='${oc.decode:\"{function: os.system}\"}'", True),
        ("stage.gold='${oc.decode:${oc.env:NOT_SET,x}}'", True),
        ("callbacks=../../own", True),
        ("data.path=../text", False),
        ("optimizer.lr='${oc.decode:${oc.env:RATE}}'", False),
        ("data.format=chat", False),
    ],
)
def test_saved_overrides_that_name_code_are_given_again(word, code, tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text(json.dumps([word]))
    if code:
        with pytest.raises(UserError, match="names code; if you trust it"):
            hydra_words("train", [f"resume={tmp_path}"])
    else:
        assert word in hydra_words("train", [f"resume={tmp_path}"])


def test_a_saved_run_brings_no_code_in_text_that_is_read_later():
    cfg = compose("train", ["stage=grpo", "init_from=m"])
    OmegaConf.set_struct(cfg, False)
    cfg.evaluation.scorers.x = "${oc.decode:'{_target_: lit_llm.rewards.function.FunctionReward, function: os.system}'}"
    with pytest.raises(UserError, match=r"scorers\.x\.function=os\.system: .*allowed_targets=PACKAGE"):
        trusted(cfg, [], "run=x")
    cfg.evaluation.scorers.x, cfg.data.cache_dir = None, "${oc.env:NOT_SET_OF_TEST}"
    cfg.optimizer.lr = "${oc.decode:${oc.env:NOT_SET_OF_TEST}}"
    trusted(cfg, [], "run=x")  # a validation needs neither


def test_a_saved_reference_brings_no_function(tmp_path):
    """What stands elsewhere under a harmless key becomes the dotted path of the function that reads the rows."""
    (tmp_path / ".hydra").mkdir()
    for word in ("data.format=${data[name]}", "data={format:${seed}}", "++stage.reward.function=${seed}"):
        (tmp_path / ".hydra/overrides.yaml").write_text(f'["{word}", "data.name=subprocess.getoutput"]')
        line = refused("train", f"resume={tmp_path}")
        assert "names code; if you trust it" in line or "format=0: must be str" in line  # which ${seed} is not
    (tmp_path / ".hydra/overrides.yaml").write_text('["init_from=${oc.env:HOME}"]')  # stays a mark, in clear nowhere
    assert "init_from=${oc.env:HOME}" in hydra_words("train", [f"resume={tmp_path}"])
    (tmp_path / ".hydra/overrides.yaml").write_text('["+reward@hydra.callbacks.x=learned", "data.format=pairs"]')
    assert [word for word in hydra_words("train", [f"resume={tmp_path}"]) if "hydra.callbacks" in word] == []


def test_places_are_looked_at_behind_their_references():
    """A folder's name that holds another key, or all overrides, holds what the environment gives for them."""
    for dirs in ("${data.path}", "${hydra.job.override_dirname}", "${hydra:job.override_dirname}"):
        line = refused("train", f"hydra.sweep.subdir={dirs}", "data.path=${oc.env:HOME}", "-m")
        assert line.startswith("hydra.sweep.subdir=") and "${oc.env:HOME}: would be written in clear" in line
    check("train", ["hydra.sweep.subdir=${hydra.job.override_dirname}_${hydra:job.num}", "data.path=.", "-m"])


def test_hydras_parts_are_built_of_what_stands_there():
    node = {"job": {"name": "a", "env_set": {"_target_": "os.system"}}, "verbose": "${oc.decode:x}"}
    for value in ("${hydra.job.env_set}", "${hydra.verbose}", "${data}", "${hydra:job.env_set}", "${hydra.job}"):
        for part in ({"x": value}, {"x": [{"_target_": "lit_llm.training.sweep.Leaderboard", "y": [value]}]}):
            assert [line for line in hydra_node.findings({**node, "callbacks": part}, ()) if "write the values" in line]
    good = {"_target_": "hydra_plugins.x.Launcher", "name": "${hydra.job.name}", "token": "${oc.env:T}", "n": 2}
    (line,) = hydra_node.findings({**node, "launcher": good}, ())
    assert line.startswith("hydra.launcher._target_=hydra_plugins.x.Launcher: no module of this name")


def test_a_search_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setattr(hydra_node, "find_spec", lambda _: None)
    line = refused("train", "-m", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-4,1e-2)")
    assert line == "hydra/sweeper=optuna: optuna is missing; pip install 'lit-llm[optuna]'"


def test_the_password_of_a_search_s_storage_is_not_written_into_its_folders(monkeypatch):
    line = refused("train", "-m", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-4,1e-2)",
                   "hydra.sweeper.storage='postgresql://me:secret@host/studies'")  # fmt: skip
    assert line.startswith("hydra.sweeper.storage=postgresql://me:***@host/studies: has a password in it")
    monkeypatch.setenv("STUDIES", "postgresql://me:secret@host/studies")
    words = ["-m", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-4,1e-2)", "data.path=."]
    check("train", [*words, "hydra.sweeper.storage=${oc.env:STUDIES}"])


def test_loggers_import_only_what_loggers_need():
    made = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}
    good = {"job_logging": {"handlers": {"a": made}, "formatters": {"b": {"()": "colorlog.ColoredFormatter"}}}}
    assert list(hydra_node.findings(good, ())) == []
    for bad in (
        {"()": "os.system"},
        {"class": "logging.handlers.os.system"},
        {"filename": "${oc.env:X}.log"},
        {"class": "my.Handler"},
        {"stream": "ext://os.system"},
        {"x": "${oc.env:X}"},
    ):
        (line,) = hydra_node.findings({"hydra_logging": {"handlers": [{"deep": bad}]}}, ())
        assert line.startswith("hydra.hydra_logging.handlers.deep.")
    assert list(hydra_node.findings({"job_logging": {"handlers": {"a": {"class": "my.Handler"}}}}, ("my.",))) == []


def test_no_folder_is_named_by_a_value_of_the_environment_s(monkeypatch):
    monkeypatch.setenv("TOKEN_OF_TEST", "secret")
    words = ["data.path='${oc.env:TOKEN_OF_TEST}'", "hydra.run.dir='outputs/${data.path}'"]
    assert "hydra.run.dir=outputs/${oc.env:TOKEN_OF_TEST}: would be written in clear" in refused("train", *words)


def test_an_unknown_key_lists_groups_and_not_every_key():
    with pytest.raises(UserError) as stop:
        check("train", ["foo=1"])
    assert "trainer" in str(stop.value) and "trainer.max_steps" not in str(stop.value)


def test_a_run_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as stop:
        command("train", print, ["stage=pretraining", f"hydra.run.dir={tmp_path}/file/run"])
    assert stop.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"error: hydra.run.dir={tmp_path}/file/run: cannot be made (" in told


def test_a_database_s_password_is_in_no_run_s_configuration(tmp_path):
    words = [f"init_from={tmp_path}", "stage=reward_modeling"]
    with pytest.raises(UserError, match=r"data\.path=postgresql://me:\*\*\*@host/team: has a password in it"):
        check("train", [*words, "data.path=postgresql://me:secret@host/team"])


def test_what_the_model_s_config_json_tells_is_told_before_anything_is_loaded(tmp_path):
    shape = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 16,
             "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "rms_norm_eps": 1e-6,
             "max_position_embeddings": 77, "hidden_act": "silu"}  # fmt: skip
    for name in ("tokenizer.json", "model.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text(json.dumps(shape))
    words = ["stage=instruction_tuning", f"init_from={tmp_path}", f"data.path={tmp_path}", "stage.lora_rank=2"]
    check("train", [*words, "data.max_length=77"])
    told = refused("train", *words, "data.max_length=78", "stage.lora_targets=[q_projj,v_proj]").splitlines()
    assert told[0].startswith("stage.lora_targets: ['q_projj'] not in the model; use some of q_proj, k_proj")
    assert told[0].endswith("did you mean q_proj?") and told[1].startswith("data.max_length=78: the model's context is")
    (tmp_path / "config.json").write_text(json.dumps({**shape, "model_type": "x", "architectures": ["XForCausalLM"]}))
    told = refused("train", *words).splitlines()
    assert "is not supported" in told[0] and told[0].endswith("with backbone=transformers")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_small_command_that_is_stopped_says_what_is_kept_and_how_to_go_on(signum, monkeypatch, capsys):
    ended, before = [], [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(command_line, "ends_without_waiting", ended.append)
    monkeypatch.setattr(sys, "argv", ["scripts/prepare.py"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stop:
            command_line.small_command("", lambda _: signal.raise_signal(signum), ["data.path=a b"], kept="all is kept")
    finally:
        signal.signal(signal.SIGINT, before[0])
    assert ended == [stop.value.code] == [128 + signum]
    told = capsys.readouterr().err
    assert told == "stopped; all is kept, go on with: python scripts/prepare.py 'data.path=a b'\n"
    assert signal.getsignal(signal.SIGTERM) == before[1]
