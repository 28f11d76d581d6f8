"""An option is written once, in the dataclass of its room: files of conf/, signatures and help agree with it, and what
makes no sense is told before torch is imported."""

import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import lit_llm
from lit_llm.config.annotations import fits, shown
from lit_llm.config.signatures import options_of
from lit_llm.errors import UserError
from lit_llm.runtime.options import Options
from tests.config.options_files import (
    GROUPS,
    assert_comments,
    assert_light,
    assert_read,
    content,
    files,
    lines_of,
)

ROOMS = sorted(path.parent.name for path in Path(lit_llm.__file__).parent.glob("*/options.py"))
MODULES = {room: f"lit_llm.{room}.options" for room in ROOMS}
KINDS = sorted(
    {kind for name in MODULES.values() for kind in vars(importlib.import_module(name)).values()
     if isinstance(kind, type) and issubclass(kind, Options) and vars(kind).get("TARGET")},
    key=lambda kind: kind.TARGET,
)  # fmt: skip
CASES = [(group, name) for group in GROUPS for name in files(group)]
# Rarely changed, and not in the file: a new key of a file would be another configuration for runs that go on.
NOT_IN_FILES = {"tokenizer/bpe": {"min_frequency", "max_token_length", "show_progress"}}


def test_options_are_read_without_torch():
    assert_light(*MODULES.values())


@pytest.mark.parametrize("room", ROOMS)
def test_every_option_has_a_comment(room):
    assert_comments(Path(lit_llm.__file__).parent / room / "options.py")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.TARGET)
def test_options_name_what_takes_them_and_agree_with_it(kind):
    """A class takes them as one object; a function has a parameter for each, with its type and default."""
    module, _, name = kind.TARGET.rpartition(".")
    made = getattr(importlib.import_module(module), name)
    assert options_of(kind.TARGET) is kind
    if made is kind or (isinstance(made, type) and (issubclass(made, kind) or not dataclasses.fields(kind))):
        return  # its own, or there are none
    if isinstance(made, type):
        first = next(iter(inspect.signature(made).parameters))
        assert made.Options is kind and first == "options"
        return
    parameters, hints = inspect.signature(made).parameters, typing.get_type_hints(made)
    own = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, each in parameters.items():
        field = fields.pop(name, None)
        if field is None:  # given by the caller, who may leave the others out
            assert name in kind.GIVEN or each.default is not each.empty, name
        elif name not in kind.GIVEN:
            required = field.default is dataclasses.MISSING
            assert each.default is each.empty if required else each.default == field.default, name
            wider = {*(typing.get_args(hints[name]) or [hints[name]])} >= {*(typing.get_args(own[name]) or [own[name]])}
            assert own[name] == hints[name] or wider, name
    assert not fields


@pytest.mark.parametrize(("group", "name"), CASES)
def test_every_option_is_a_key_of_the_file_with_its_default_and_the_other_way_round(group, name):
    target, values = content(group, name)
    kind = options_of(target)
    assert group == kind.GROUP
    fields = [field for field in dataclasses.fields(kind) if field.name not in NOT_IN_FILES.get(f"{group}/{name}", ())]
    assert set(values) == {field.name for field in fields}
    lines = lines_of(group, name)
    for field in fields:
        value = values[field.name]
        default = "???" if field.default is dataclasses.MISSING else field.default
        if (tuple(value) if isinstance(value, list) else value) != default and value != {}:
            line = next(line for line in lines if line.strip().startswith(f"{field.name}:"))
            assert re.search(r"#.*\bin code\b", line), f"{line}: says not why it is {field.default} in code"


@pytest.mark.parametrize(("group", "name"), [case for case in CASES if case[0] in ("reward", "callbacks")])
def test_every_option_is_read_by_its_class(group, name):
    kind = options_of(content(group, name)[0])
    room = importlib.import_module(MODULES[kind.TARGET.split(".")[1]])
    by_options = {"least", "most", "contains", "template", "pattern", "parts"} if group == "reward" else ()
    assert_read(group, name, room, by_options)


def test_an_unknown_target_has_no_options():
    assert options_of("lit_llm.stages.ppo.PPOO") is options_of("lit_llm.nowhere.X") is options_of("os.system") is None
    assert options_of("lit_llm") is None


def test_options_come_as_one_object_or_by_name_not_both():
    kind = options_of("lit_llm.callbacks.samples.Samples")
    assert kind.of(None, {"count": 4}) == kind(count=4) == kind.of(kind(count=4), {})
    with pytest.raises(TypeError, match="count: beside SamplesOptions"):
        kind.of(kind(), {"count": 4})
    with pytest.raises(TypeError, match="'folder': must be LearnedOptions, or give its fields by their names"):
        options_of("lit_llm.rewards.learned.LearnedReward").of("folder", {})


# Values and types


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        (3, int, True), (True, int, False), ("3", int, False), (3, float, True), (True, bool, True), (1, bool, False),
        (None, str | None, True), (None, str, False), ([1, 2], list[int], True), ([1, "a"], list[int], False),
        ("x", typing.Literal["x", "y"], True), ("z", typing.Literal["x", "y"], False), (3, list, False),
        ([0.9, 0.95], tuple[float, float], True), ([1], tuple[float, float], False), ([1, 2, 3], tuple[int, ...], True),
        ({"a": 1}, typing.Mapping[str, float], True), ({"a": "b"}, dict[str, float], False), (5, Path | int, True),
        ({"a": 1}, dict, True), (5, subprocess.Popen, True), ("p", str | Path, True), ("p", Path, True),
        ([], typing.Sequence[str], True), ("ab", typing.Sequence[str], False), (1.0, int | None, False),
        (5, typing.Callable[[int], str], True),
    ],
)  # fmt: skip
def test_values_are_compared_with_types(value, kind, right):
    assert fits(value, kind) is right


def test_types_are_told_as_they_are_written():
    hints = typing.get_type_hints(options_of("lit_llm.data.domain_corpora.DomainCorpora"))
    assert shown(hints["replay_path"]) == "str | int | Sequence[str | int] | Mapping[str, Any] | None"
    assert shown(hints["on_error"]) == "Literal['stop', 'skip']" and shown(tuple[int, ...]) == "tuple[int, ...]"
    assert shown(float | typing.Literal["a"] | None) == "float | Literal['a'] | None" and shown(Path) == "Path"


# Before torch

MISTAKES = {
    "pretraining": {
        "schedule.warmup_steps=5 schedule.warmup_ratio=0.1": "schedule.warmup_ratio: 0.1, and warmup_steps is 5",
        "optimizer.lr=-1": "optimizer.lr=-1: must be above 0",
        "optimizer.betas=[0.9]": "optimizer.betas=[0.9]: must be tuple[float, float]",
        "backbone.num_kv_heads=3": "backbone.num_kv_heads=3 must divide backbone.num_heads=4",
        "tokenizer.vocab_size=100": "tokenizer.vocab_size=100: 256 bytes and 3 control tokens need 259",
        "callbacks.samples.prompts=[]": "callbacks.samples.prompts: []; give one text or more",
        "callbacks.numerics.on_bad_update=ask": "callbacks.numerics.on_bad_update: ask; must be one of skip, stop",
        "logger.flush_secs=often": "logger.flush_secs='often': must be int",
    },
    "dpo": {"stage.loss.label_smoothing=0.5": "stage.loss.label_smoothing=0.5: must be below 0.5"},
    "grpo": {
        "reward=length stage.reward.least=3 stage.reward.most=2":
            "stage.reward.least=3, stage.reward.most=2: least must be from 0 to most",
        "+evaluation.scorers.sum={_target_:lit_llm.rewards.weighted.WeightedSum,parts:{}}":
            "evaluation.scorers.sum.parts: none; give {name: {reward: ..., weight: 1.0}}",
        "gold=regular_expression stage.gold.pattern='('": "stage.gold.pattern: ( is no regular expression",
    },
    "ppo": {
        "reward=weighted_sum +stage.reward.parts.kl={reward:{_target_:lit_llm.feedback.rule.reward,_partial_:true}}":
            "stage.reward.parts.kl: objective/kl is logged already",
        "+stage.gold={_target_:lit_llm.feedback.rule.reward}":
            "stage.gold._partial_=None: must be true; prompts and completions are given when it is built",
    },
    "kto": {"+stage.reward=x": "stage.reward: this stage takes no reward; choose one that does, such as stage=grpo"},
    "reward_modeling": {
        "stage.reward_validation.probe_prompts=0": "stage.reward_validation.probe_prompts=0: must be 1 or more",
    },
}  # fmt: skip
ASK = """
import json, sys
from lit_llm.config import schema
from lit_llm.config.command_line import check
from lit_llm.config.hydra_words import hydra_words
from lit_llm.errors import UserError
schema.register()
for words in json.loads(sys.stdin.read()):
    try:
        check("train", hydra_words("train", words))
    except UserError as error:
        print(error)
sys.exit("torch" in sys.modules)
"""


def test_what_makes_no_sense_is_told_before_torch_is_imported():
    commands = [
        [f"stage={stage}", *(["init_from=m", "data.path=x"] if stage != "pretraining" else []),
         *(word for words in mistakes for word in words.split(" "))]
        for stage, mistakes in MISTAKES.items()
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps(commands), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    for line in (line for mistakes in MISTAKES.values() for line in mistakes.values()):
        assert any(each.startswith(line) for each in told), f"{line} is not in {done.stdout}"


def test_collecting_rankings_is_checked_where_its_options_are_made():
    with pytest.raises(UserError, match=r"annotation\.k=1: a ranking needs at least 2 answers"):
        options_of("lit_llm.feedback.simulated.collect")(model="m", prompts="p", k=1)
