"""The configuration: every option composes, every mistake is one line that names the key, no secret is written."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import reduce
from itertools import zip_longest
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from lit_llm.config import schema
from lit_llm.config.annotations import shown
from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.signatures import signature
from lit_llm.config.validation import findings_in, validate
from lit_llm.data.formats import FORMATS
from lit_llm.errors import UserError
from lit_llm.runtime.source_files import tree

CONF = Path(__file__).parents[2] / "conf"
STAGES = sorted(path.stem for path in (CONF / "stage").glob("*.yaml"))
NEEDED = {
    "dpo": ["init_from=m", "data.path=p"],
    "reward_modeling": ["init_from=m", "data.path=p"],
    "flag_classification": ["init_from=m", "data.path=p"],
    "ppo": ["init_from=m", "stage.reward.folder=r"],
    "grpo": ["init_from=m"],
    "kto": ["init_from=m", "data.path=p"],
}


def side_by_side() -> list[list[str]]:
    """Words that choose every option of every group once, one of each group beside the others in a composition."""
    groups = [path for path in CONF.iterdir() if path.is_dir() and not path.name.startswith("_")]
    apart = ("experiment", "hydra", "loss", "reward", "run", "slurm", "stage")  # a stage alone: `composed`
    found = [group for group in sorted(groups) if group.name not in apart]
    options = {group.name: sorted(f"{group.name}={path.stem}" for path in group.glob("*.yaml")) for group in found}
    searches = options.pop("hparams_search")  # each has the data of its stage
    return [[word for word in words if word] for words in zip_longest(*options.values())] + [[one] for one in searches]


def stage_words(stage: str) -> list[str]:
    return [f"stage={stage}", *NEEDED.get(stage, [])]


@pytest.fixture(scope="module")
def composed():
    return {stage: compose("train", stage_words(stage)) for stage in STAGES}


@pytest.fixture(scope="module")
def chain():
    return compose("pipeline", [])


@pytest.mark.parametrize("words", side_by_side(), ids=" ".join)
def test_every_option_composes_and_its_keys_are_known(words):
    chosen = dict(word.split("=") for word in words)
    more = NEEDED.get(chosen.get("hparams_search", ""), ["data.path=p"] if "data" in chosen else [])
    more = [*more, "tokenizer.folder=f"] if chosen.get("tokenizer") == "folder" else more
    validate(compose("train", [*words, *more]))


@pytest.mark.parametrize(
    "loss", sorted(path.stem for path in (CONF / "loss").glob("*.yaml") if "_target_" in path.read_text())
)
def test_every_loss_goes_into_its_stage(loss):
    stage = "reward_modeling" if loss in ("bradley_terry", "plackett_luce") else "dpo"
    cfg = compose("train", [*stage_words(stage), f"loss={loss}"])
    validate(cfg)
    assert cfg.stage.loss._target_.endswith(loss)


def test_every_format_of_the_data_can_be_chosen_by_name():
    names = {path.stem for path in (CONF / "format").glob("*.yaml")}
    assert names == {"auto", *(found.name for found in FORMATS)}
    for name in names:
        path = CONF / f"format/{name}.yaml"
        assert yaml.safe_load(path.read_text()) == {"format": None if name == "auto" else name}


def test_a_format_goes_into_the_data():
    assert compose("train", ["stage=instruction_tuning", "format=alpaca"]).data.format == "alpaca"
    assert compose("train", ["format=my_package.function"]).data.format == "my_package.function"
    chain = compose("pipeline", ["stages.fine_tuning.format=source_target", "stages.dpo.format=null"])
    assert chain.stages.fine_tuning.data.format == "source_target" and chain.stages.dpo.data.format is None
    assert chain.stages.instruction_tuning.data.format is None


@pytest.mark.parametrize("preset", ["default", "tiny"])
def test_pipelines_compose(preset):
    cfg = compose("pipeline", [f"experiment={preset}"])
    validate(cfg)
    assert cfg.stages.ppo.init_from == "@instruction_tuning"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_alone_brings_the_data_that_fits_it(composed, stage):
    validate(composed[stage])
    batches = {"reward_modeling": "Preferences", "dpo": "Preferences", "ppo": "Prompts", "grpo": "Prompts"}
    assert composed[stage].data._target_.endswith(batches.get(stage, ""))


def misspelt(key: str) -> str:
    """One letter changed, in the middle of the last part."""
    place = len(key) - max(1, len(key.rpartition(".")[2]) // 2)
    return key[:place] + ("x" if key[place] != "x" else "y") + key[place + 1 :]


@pytest.mark.parametrize("stage", STAGES)
def test_every_key_with_one_letter_changed_is_refused_by_name(composed, stage):
    """As it would come from a misspelt experiment file: set in the composed configuration."""
    values = schema.plain(composed[stage])
    keys = [key for key, _ in schema.flat(values) if not free(key)]
    assert len(keys) > 60
    for key in keys:
        *path, last = misspelt(key).split(".")
        reduce(getitem, path, values)[last] = 1
    found = list(findings_in(values))
    for key in keys:
        assert any(line.startswith(f"{misspelt(key)}=1: unknown key; did you mean") for line in found), key


def free(key: str) -> bool:
    """Names that the user gives: callbacks and scorers."""
    return (key.count(".") == 1 and key.startswith("callbacks.")) or key.startswith("evaluation.scorers.")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["optimizer.lrr=1"], "optimizer.lrr=1: unknown key; did you mean optimizer.lr?"),
        (["stage=pretrainin"], "stage=pretrainin: no such stage; did you mean pretraining?"),
        (["stag=pretraining"], "stag=pretraining: unknown key; did you mean stage?"),
        (["seed=abc"], "seed=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        (["optimizer.lr=abc"], "optimizer.lr='abc': must be float"),
        (["+data.pth=x"], "data.pth=x: unknown key; did you mean path?"),
        (["+sed=1"], "sed=1: unknown key; did you mean seed?"),
        (["trainer.precision=bf17"], "trainer.precision=bf17: must be one of"),
        (["stage=dpo", "init_from=m"], "data.path: no value; give it as data.path=VALUE"),
        (["stage._target_=os.system"], "stage._target_=os.system: not under lit_llm."),
        (["++stage._target_=lit_llm.stages.pretraining.Pretrainin"], "did you mean Pretraining?"),
        (["init_from=m", "backbone.depth=3"], "backbone.depth=3: init_from=m brings its own backbone"),
        (["data.path=[a"], "data.path=[a: cannot be read"),
        (["format=alpca"], "format=alpca: no such format; did you mean alpaca?"),
        (["data.path=null"], "data.path=None: must be str | int | Sequence"),
        (["data.path=1.10"], "data.path=1.1: must be str | int | Sequence"),
        (["trainer.max_steps=0"], "trainer.max_steps=0: must be 1 or more"),
        (["trainer.max_time=00:00:00:00", "trainer.max_steps=2"], "trainer.max_time=00:00:00:00: no time at all"),
        (
            ["data.validation_fraction=0.6", "data.test_fraction=0.6"],
            "data.validation_fraction=0.6 and data.test_fraction=0.6: nothing is left to train on",
        ),
        (["stage=grpo", "init_from=m", "stage.delta=1.1"], "stage.delta=1.1: must be above 1 + stage.eps_high = 1.28"),
        (
            ["stage=dpo", "init_from=m", "stage.lora_rank=2", "stage.base_model=${oc.env:HOME}"],
            "stage.base_model=${oc.env:HOME}: would be written in clear",
        ),
        (["trainer.max_time=00:01:00:00"], "trainer.max_time=00:01:00:00: the schedule needs a length too"),
        (["trainer.activation_memory_budget=2"], "trainer.activation_memory_budget=2.0: must be a share from 0 to 1"),
        (
            ["trainer.activation_memory_budget=0.5"],
            "trainer.activation_memory_budget=0.5: is the compiler's; give trainer.compile=true",
        ),
        (
            ["trainer.activation_memory_budget=0.5", "trainer.compile=true", "trainer.gradient_checkpointing=true"],
            "trainer.activation_memory_budget=0.5: computes again what trainer.gradient_checkpointing does; choose",
        ),
        (
            ["trainer.activation_memory_budget=0.5", "trainer.compile=true", "backbone.dropout=0.1"],
            "backbone.dropout=0.1: what it leaves out would be drawn anew with trainer.activation_memory_budget=0.5",
        ),
        (["trainer.limit_val_batches=1.5"], "trainer.limit_val_batches=1.5: must be a whole number, or a share"),
    ],
)
def test_a_mistake_is_one_line(words, line):
    schema.register()
    with pytest.raises(UserError) as error:
        check("train", hydra_words("train", words))
    assert any(line in found for found in str(error.value).splitlines())


@pytest.mark.parametrize("stage", ["pretraining", "dpo", "grpo"])  # with no usual limit, of epochs, of steps
@pytest.mark.parametrize("limit", ["max_steps", "max_epochs", "max_tokens"])
def test_a_limit_of_ones_own_is_not_capped_by_the_usual_one(stage, limit):
    def limits(trainer):
        return {key: trainer[key] for key in ("max_steps", "max_epochs", "max_tokens") if trainer[key] is not None}

    words = [*stage_words(stage), f"trainer.{limit}=900"]
    trainer = compose("train", words).trainer
    assert limits(trainer) == {limit: 900}
    trainer.max_steps = 7  # as trainer.max_steps=7 on the command line sets it
    assert limits(trainer) == {limit: 900} | {"max_steps": 7}
    assert compose("train", [*words, "debug=limit"]).trainer.max_steps == (900 if limit == "max_steps" else 5)


def test_nor_in_a_pipeline(chain):
    usual = chain.stages
    stages = compose("pipeline", ["stages.pretraining.trainer.max_epochs=2"]).stages
    assert stages.pretraining.trainer.max_steps is None
    assert stages.fine_tuning.trainer.max_steps == usual.fine_tuning.trainer.max_steps is not None


def test_all_mistakes_are_named_at_once():
    schema.register()
    with pytest.raises(UserError) as error:
        check("train", ["optimzer.lr=3", "seed=x", "data.max_length=long", "+stage.zloss=1"])
    assert [line.split("=")[0] for line in str(error.value).splitlines()] == [
        "optimzer.lr", "seed", "stage.zloss", "data.max_length",
    ]  # fmt: skip


def test_values_and_options_of_a_step_and_their_mistakes():
    words = ["start_from=ppo", "stages.ppo.stage.kl_coef=0.1", "loss@stages.dpo.stage.loss=ipo"]
    words += ["schedule@stages.dpo.schedule=linear"]
    cfg = compose("pipeline", words)
    assert cfg.start_from == "ppo" and cfg.stages.ppo.stage.kl_coef == 0.1
    assert cfg.stages.dpo.stage.loss._target_.endswith("ipo") and cfg.stages.dpo.schedule._target_.endswith("linear")
    with pytest.raises(UserError) as error:
        check("pipeline", hydra_words("pipeline", ["stages.ppo.stage.kl_cof=1", "start_from=pppo"]))
    assert "stages.ppo.stage.kl_coef?" in str(error.value) and "start_from=pppo: no step" in str(error.value)


def test_a_mistake_is_answered_without_importing_torch():
    program = (
        "import sys\nfrom lit_llm.training.command import main\ntry:\n main()\nfinally:\n print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "sed=1"], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 2 and done.stdout.strip() == "False"
    assert done.stderr.strip() == "error: sed=1: unknown key; did you mean seed?"


@pytest.mark.parametrize(
    "word", ["stages.ppo.backbone.depth=9", "backbone@stages.ppo.backbone=3m", "tokenizer@stages.dpo.tokenizer=bpe"]
)
def test_what_a_stage_from_a_model_never_reads_is_refused(word):
    schema.register()
    with pytest.raises(UserError, match=r"init_from=@instruction_tuning brings its own (backbone|tokenizer)"):
        check("pipeline", hydra_words("pipeline", [word]))


def test_what_it_reads_is_taken():
    free = ["stages.pretraining.backbone.depth=3", "stages.ppo.backbone.dropout=0.1"]
    check("pipeline", hydra_words("pipeline", free))


def test_a_stage_of_ones_own_needs_a_run_or_takes_another_s(tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage/mine.yaml").write_text((CONF / "stage/pretraining.yaml").read_text())
    own = f"--config-dir={tmp_path}"
    with pytest.raises(UserError, match=r"run=mine: no such run; .*stage=mine run=NAME"):
        check("train", [own, "stage=mine"])
    check("train", [own, "stage=mine", "run=pretraining"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.yaml").write_text("# @package _global_\ndefaults:\n  - pretraining\n  - _self_\nseed: 7\n")
    check("train", [own, "stage=mine"])


def test_values_from_the_environment_are_never_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    cfg = compose("train", ["data.path=${oc.env:HF_TOKEN}", "init_from=prefix-${data.path}"])
    assert cfg.init_from == "prefix-hunter2"
    schema.save(cfg, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    assert "hunter2" not in text and "hunter2" not in str(schema.plain(cfg))
    again = schema.load(tmp_path / "config.yaml")
    assert again.init_from == "prefix-hunter2"  # read again from the environment, when it is used
    assert schema.identity(again) == schema.identity(cfg)


def test_what_is_known_of_a_configuration_is_its_own_as_it_is_now():
    cfg = OmegaConf.create({"a": {"b": [1, {"c": "${a.d}"}], "d": "x"}, "n": 1, "t": "${oc.env:HF_TOKEN,y}"})
    wanted = {"a": {"b": [1, {"c": "x"}], "d": "x"}, "n": 1, "t": '${oc.env:HF_TOKEN,"y"}'}
    first = schema.plain(cfg)
    assert first == wanted
    first["a"]["b"][1]["c"] = first["n"] = None
    assert schema.plain(cfg) == wanted == schema.plain(OmegaConf.to_container(cfg))
    cfg.a.d = "z"
    assert schema.plain(cfg)["a"] == {"b": [1, {"c": "z"}], "d": "z"}
    for number in (True, 1.0, "1", None, 1):
        cfg.n = number
        assert repr(schema.plain(cfg)["n"]) == repr(number)
    counted = iter(range(9))
    OmegaConf.register_new_resolver("counted_here", lambda: next(counted), replace=True)
    assert [schema.plain({"n": "${counted_here:}"})["n"] for _ in range(3)] == [0, 1, 2], "another resolver is asked"


def test_saved_configurations_come_back_the_same(tmp_path, composed, chain):
    for name, cfg in {**composed, "pipeline": chain}.items():
        schema.save(cfg, tmp_path / name)
        assert schema.plain(schema.load(tmp_path / name)) == schema.plain(cfg)


def test_a_part_of_the_users_is_asked_for_its_keys_by_importing_it(tmp_path, monkeypatch):
    (tmp_path / "given.py").write_text(
        "from dataclasses import dataclass\nfrom typing import Literal\nMode = Literal['a', 'b']\n"
        "class Base:\n    def __init__(self, mode: Mode, *, size: int = 3): ...\n"
        "class Child(Base): ...\n@dataclass\nclass Plain:\n    name: str\n    count: 'int | None' = 0\n"
        "def takes(x: 'Nowhere', **rest): ...\n"
    )
    (tmp_path / "broken.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    child = signature("given.Child").parameters
    assert [(p.name, shown(p.type), p.required) for p in child] == [
        ("mode", "Literal['a', 'b']", True), ("size", "int", False),
    ]  # fmt: skip
    assert [shown(p.type) for p in signature("given.Plain").parameters] == ["str", "int | None"]
    assert signature("given.takes").open and signature("given.takes").parameters[0].type is Any
    with pytest.raises(UserError, match=r"broken\.f: cannot be imported \(imported\)"):
        signature("broken.f")
    with pytest.raises(UserError, match=r"given has no Chidl; did you mean Child\?"):
        signature("given.Chidl")


# No key is read by nobody


def test_every_parameter_of_what_is_configured_is_read(composed, chain):
    """Each parameter of each ``_target_`` occurs in its function's body, or is handed to the base class."""
    unread = []
    for cfg in [*composed.values(), chain]:
        for target in targets(schema.plain(cfg)):
            unread += [f"{target}: {name}" for name in unread_parameters(target)]
    assert not unread


def targets(value) -> set[str]:
    if isinstance(value, dict):
        own = {value["_target_"]} if "_target_" in value else set()
        return own.union(*(targets(item) for item in value.values()))
    return set().union(*(targets(item) for item in value)) if isinstance(value, list) else set()


def unread_parameters(target: str) -> list[str]:
    module, _, name = target.rpartition(".")
    node = next((item for item in tree(module).body if getattr(item, "name", None) == name), None)
    if isinstance(node, ast.ClassDef):
        node = next((item for item in node.body if getattr(item, "name", None) == "__init__"), None)
    if node is None:
        return []  # inherited: the base class's own test
    read = {item.id for statement in node.body for item in ast.walk(statement) if isinstance(item, ast.Name)}
    names = [item.arg for item in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    return [item for item in names if item not in read and item != "self"]


HOLDS_A_CONFIGURATION = re.compile(r"\b(cfg|config|settings|values)\b")


def read_from_configurations(source: str) -> set[str]:
    """Keys that the code takes from a configuration: as attribute, by index, or by get()."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and HOLDS_A_CONFIGURATION.search(ast.unparse(node.value)):
            found.add(node.attr)
        if isinstance(node, ast.Subscript) and HOLDS_A_CONFIGURATION.search(ast.unparse(node.value)):
            found |= {part.value for part in [node.slice] if isinstance(part, ast.Constant)}
        got = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
        if got and HOLDS_A_CONFIGURATION.search(ast.unparse(node.func.value)):
            found |= {part.value for part in node.args[:1] if isinstance(part, ast.Constant)}
    return found


@pytest.fixture(scope="module")
def known():
    """The keys that the package reads from configurations."""
    package = Path(schema.__file__).parents[1]
    files = [path for path in package.rglob("*.py") if path != Path(schema.__file__)]
    found = set().union(*(read_from_configurations(path.read_text()) for path in files))
    for path in (CONF / "callbacks").glob("*.yaml"):
        found |= set(re.findall(r"\$\{\.+trainer\.(\w+)\}", path.read_text()))
    return found


@pytest.mark.parametrize(
    "kind",
    [schema.TrainerConfig, schema.EvaluationConfig, schema.TrainConfig, schema.PipelineConfig, schema.AnswersConfig],
)
def test_every_key_of_the_root_is_read(kind, known):
    assert not [name for name in kind.__dataclass_fields__ if name not in known]


def test_a_key_that_nobody_reads_is_found():
    assert read_from_configurations("cfg.trainer.a; other.b; self.cfg['c']; values.get('d'); e = 1") == {
        "trainer", "a", "c", "get", "d",
    }  # fmt: skip


def test_trainer_presets_declare_every_key_so_that_none_needs_a_plus():
    declared = set(yaml.safe_load((CONF / "trainer/default.yaml").read_text()))
    assert declared - {"defaults"} | {"slurm"} == set(schema.TrainerConfig.__dataclass_fields__)  # conf/slurm has those


def test_presets_for_large_models_have_the_usual_rates_and_batches_and_the_pipeline_has_its_own(chain):
    rates = {"reward_modeling": 9e-6, "dpo": 1e-6, "kto": 1e-6}
    for stage, rate in rates.items():
        cfg = compose("train", [f"stage={stage}", "init_from=m", "data.path=p"])
        assert (cfg.optimizer.lr, cfg.trainer.global_batch_size, cfg.trainer.max_epochs) == (rate, 64, 1)
        assert 64 % cfg.data.micro_batch_size == 0 and cfg.schedule.min_lr_ratio == 0.1
    stages = chain.stages
    for stage in ("reward_modeling", "dpo"):
        assert stages[stage].optimizer.lr >= 1e-4 and stages[stage].data.micro_batch_size == 16
        assert stages[stage].trainer.global_batch_size is None


def test_policies_and_best_of_n_answer_the_same_prompts_in_the_same_way(chain):
    ppo, best = chain.stages.ppo, chain.best_of_n
    for key in ("temperature", "max_new_tokens"):
        assert ppo.stage[key] == ppo.evaluation[key] == best[key], key
    assert ppo.evaluation.max_items == best.prompts, "both draw by the same seed"


def test_a_gold_reward_of_a_group_is_built_in_place_of_the_default_pipeline_s_rule():
    chain = compose("pipeline", ["+reward@stages.ppo.stage.gold=learned", "stages.ppo.stage.gold.folder=x"])
    assert chain.stages.ppo.stage.gold == {
        "_target_": "lit_llm.rewards.learned.LearnedReward", "_partial_": False, "folder": "x", "batch_size": 64,
    }  # fmt: skip
    assert all(
        "_partial_" in yaml.safe_load(path.read_text())
        for path in (CONF / "reward").glob("*.yaml")
        if path.stem not in (*STAGES, "none")
    )
