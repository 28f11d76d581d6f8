"""What a configuration may build: what an allowed module defines, of the kind that the key takes, and nothing else."""

import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from lit_llm.config import schema
from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.targets import construct, named_class, refusal, saved_code
from lit_llm.config.validation import validate
from lit_llm.errors import UserError

OURS = ("lit_llm.",)


@pytest.mark.parametrize(
    ("target", "role"),
    [
        ("lit_llm.training.build.torch.load", "stage"),
        ("lit_llm.training.build.torch.load", ""),
        ("lit_llm.training.launch.shutil.copyfile", "loss"),
        ("lit_llm.training.launch.subprocess.Popen", "callbacks"),
        ("lit_llm.training.build.L.Trainer", "stage"),
        ("lit_llm.data.compression.import_module", "reward"),
        ("lit_llm.stages.grpo.GRPO.load_from_checkpoint", "stage"),
        ("lit_llm.stages.grpo.GRPO.__init__.__globals__", "stage"),
        ("lit_llm.config.targets.construct", ""),
        ("lit_llm.feedback.rule.rule", "reward"),
        ("lit_llm.rewards.validation.gate.RewardValidationFailed", "reward"),
        ("lit_llm.rewards.learned.LearnedReward", "stage"),
        ("lit_llm.stages.pretraining.Pretraining", "data"),
        ("lit_llm.optim.muon.newton_schulz", "optimizer"),
        ("lit_llm.rewards.validation.validator.RewardValidator", "loss"),
        ("lit_llm", "stage"),
        ("lit_llm.training.build", "stage"),
        ("lit_llm..parts.load", "stage"),
        ("os.system", "stage"),
        (["lit_llm.stages.grpo.GRPO"], "stage"),
        (None, "stage"),
    ],
)
def test_what_is_not_defined_here_or_is_of_another_kind_is_refused(target, role):
    assert refusal(target, role, OURS)


def test_every_part_of_the_configurations_may_be_built():
    validate(compose("pipeline", []))
    for word in ("reward=weighted_sum", "reward=ensemble", "gold=learned", "callbacks=aligned", "logger=csv"):
        cfg = compose("train", ["stage=grpo", "init_from=m", word])
        lines = []
        try:
            validate(cfg)
        except UserError as error:
            lines = str(error).splitlines()
        assert not [line for line in lines if "_target_" in line]


PLACES = [
    "+stage.deep={a: [{b: {_target_: os.system}}]}",
    "+stage._args_=[{_target_: os.system}]",
    "data.path={_target_: os.system}",
    "+evaluation.scorers.x={_target_: lit_llm.training.build.torch.load}",
    "+callbacks.x={_target_: lit_llm.training.launch.shutil.rmtree}",
    "logger={_target_: lit_llm.training.build.torch.load, _partial_: true}",
    "optimizer._target_=lit_llm.training.launch.shutil.copyfile",
    "schedule._target_=hydra.utils.get_method",
    "tokenizer._target_=lit_llm.training.build.torch.load",
]


@pytest.mark.parametrize("word", PLACES)
def test_no_place_builds_foreign_code(word):
    schema.register()
    with pytest.raises(UserError) as error:
        check("train", hydra_words("train", [word]))
    assert any("_target_=" in line for line in str(error.value).splitlines()), str(error.value)


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A package of the user's: its own stage, re-exports of it, an alias, and the same ways to foreign code."""
    package = tmp_path / "own_parts_of_test"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from .inner.stage import Mine\nfrom own_parts_of_test.inner import stage as st\nimport torch\n"
        "from pickle import loads\nfrom os.path import *\nShort = Mine\nsneaky = torch.load\nShorter = st.Mine\n"
    )
    (package / "inner/__init__.py").write_text("")
    (package / "inner/stage.py").write_text(
        "from lit_llm.stages.pretraining import Pretraining as P\nimport functools\n"
        "class Mine(P):\n    load = functools.partial\n    @classmethod\n    def made(cls): ...\n"
        "try:\n    import fast\nexcept ImportError:\n    def late(x): ...\nmade_here = functools.partial(late, 1)\n"
        "def __getattr__(name):\n    import os\n    if name == 'lazy': return late\n"
        "    if name == 'system': return os.system\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_parts_of_test."


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("Mine", True), ("Short", True), ("Shorter", True), ("st.Mine", True), ("inner.stage.Mine", True),
        ("inner.stage.Mine.made", True), ("inner.stage.late", True), ("inner.stage.made_here", True),
        ("inner.stage.lazy", True), ("inner.stage.system", False), ("inner.stage.P", False), ("torch.load", False),
        ("loads", False), ("sneaky", False), ("join", False), ("inner.stage.Mine.load", False),
        ("inner.stage.functools.partial", False), ("nothing", False),
    ],
)  # fmt: skip
def test_of_an_allowed_package_what_it_defines_itself_is_built(own_package, name, right):
    assert (refusal(own_package + name, "reward", (own_package,)) is None) is right
    assert refusal(own_package + name, "reward", OURS)
    assert refusal(own_package + name, "reward", ("own_parts",))  # a prefix names a package, not the start of a word


def test_a_package_allowed_on_the_command_line_brings_a_stage(own_package):
    schema.register()
    words = [f"stage._target_={own_package}Short", f"allowed_targets=[{own_package}]"]
    check("train", hydra_words("train", words))
    with pytest.raises(UserError, match=r"allowed_targets=''"):
        check("train", hydra_words("train", [*words[:1], "allowed_targets=['']"]))


def test_the_last_gate_sees_values_after_their_interpolation():
    """What the check of the configuration took for text can become a mapping when it is resolved."""
    hidden = "${oc.decode:'{_target_: lit_llm.runtime.run_folder.write_json, path: x}'}"
    cfg = compose("train", ["stage=grpo", "init_from=m"])
    cfg.stage.gold = hidden
    with pytest.raises(UserError, match=r"gold\._target_=lit_llm\.runtime\.run_folder\.write_json"):
        construct(cfg.stage, "stage")
    with pytest.raises(UserError, match=r"stage\._target_=lit_llm\.training\.build\.torch\.load"):
        named_class({"_target_": "lit_llm.training.build.torch.load"}, "stage")


@pytest.mark.parametrize(
    "value",
    ["\\${d}", "\\${oc.create:{_target_: os.getcwd}}", ["\\${d}"], {"a": "\\${d}"}, "${oc.env:OF_TEST}"],
    ids=["reference", "resolver", "list", "mapping", "environment"],
)
def test_text_that_looks_like_an_interpolation_is_built_as_text(value, monkeypatch):
    monkeypatch.setenv("OF_TEST", "${d}")
    part = {"_target_": "lit_llm.backbone.config.from_depth", "_partial_": True, "path": value}
    made = construct(OmegaConf.create({"d": {"_target_": "os.getcwd"}, "n": part}).n, "backbone").keywords["path"]
    text = made[0] if isinstance(made, list) else made["a"] if isinstance(made, dict) else made
    assert text.startswith("${")


def test_values_for_a_call_and_errors_of_it():
    node = {"_target_": "lit_llm.backbone.config.from_depth", "_partial_": True, "a": [{"b": {"c": 1}}], "d": "???"}
    assert construct(node, "backbone").keywords == {"a": [{"b": {"c": 1}}]}
    with pytest.raises(InstantiationException, match=r"backbone\._target_=.*TypeError"):
        construct({"_target_": "lit_llm.backbone.config.from_depth", "nothing": 1}, "backbone")


def test_a_saved_configuration_gives_no_value_without_its_name():
    """FunctionReward's first value is the dotted path of a function."""
    node = {"_target_": "lit_llm.rewards.function.FunctionReward", "_args_": ["os.system"]}
    (line,) = saved_code({"evaluation": {"scorers": {"x": node}}}, ())
    assert line.startswith("evaluation.scorers.x._args_=['os.system']")
    assert list(saved_code({"data": {"format": "${data[name]}"}}, ()))


def test_text_that_becomes_a_target_trains_no_tokenizer():
    """The data's values are built on their own there, before anything else looks at them."""
    from lit_llm.training import build as parts

    cfg = compose("train", ["data.path=x"])
    cfg.data.path = "${oc.decode:'{_target_: shutil.rmtree, path: x}'}"
    with pytest.raises(UserError, match=r"data\.path\._target_=shutil\.rmtree"):
        parts._training_texts(cfg)


def test_a_folder_of_the_users_is_not_replaced_by_a_tokenizer(tmp_path):
    from lit_llm.training import build as parts

    (tmp_path / "notes.json").write_text("mine")
    with pytest.raises(UserError, match=r"holds files but no tokenizer\.json"):
        parts.load_run_tokenizer(compose("train", ["data.path=x"]), tmp_path)
    assert (tmp_path / "notes.json").read_text() == "mine"
