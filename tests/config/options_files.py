"""What a file of a group in conf/ must have in common with the dataclass of the options that it gives."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import yaml

from lit_llm.config.signatures import options_of
from lit_llm.config.targets import HYDRA_KEYS, construct

CONF = Path(__file__).parents[2] / "conf"
LIVE = {"reward", "gold", "loss", "reward_validation"}  # objects that a configuration describes beside the options


def files(group):
    """The names of a group's files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def content(group, name):
    """The target of a file, and the options that it gives."""
    text = (CONF / group / f"{name}.yaml").read_text()
    values = yaml.safe_load(text.replace("${paths.cache}", "outputs/cache"))  # what conf/paths/default.yaml comes to
    return values["_target_"], {k: v for k, v in values.items() if k not in HYDRA_KEYS | LIVE | {"defaults"}}


def kind_of(group, name):
    """The class that a file names, and the class of its options."""
    target, values = content(group, name)
    given = {key: "some/file" for key, value in values.items() if value == "???"}
    made = construct({"_target_": target, "_partial_": True, **given}, group).func
    return made, made.Options


def default_of(field):
    return "???" if field.default is dataclasses.MISSING else field.default


def assert_keys_and_defaults(group, name):
    """The keys of a file are the fields, with their defaults; or its comment says what it is in code."""
    target, values = content(group, name)
    kind = kind_of(group, name)[1]
    assert options_of(target) == f"{kind.__module__}.{kind.__qualname__}"
    assert set(values) == {field.name for field in dataclasses.fields(kind)}
    lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
    for field in dataclasses.fields(kind):
        value = values[field.name]
        if (tuple(value) if isinstance(value, list) else value) != default_of(field):
            line = next(line for line in lines if line.startswith(f"{field.name}:"))
            assert re.search(r"#.*\bin code\b", line), f"{line}: says not why it is {field.default} in code"


def assert_read(group, name, options, by_options=()):
    """Every field is read somewhere in the room of a module of options, but those that the options read themselves."""
    sources = " ".join(path.read_text() for path in Path(options.__file__).parent.glob("*.py"))
    for field in {field.name for field in dataclasses.fields(kind_of(group, name)[1])} - set(by_options):
        assert re.search(rf"\boptions\.{field}\b", sources), field


def assert_comments(options):
    """Every field of a module of options has a comment, behind it or above it."""
    text = Path(options.__file__).read_text()
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            for field in (item for item in node.body if isinstance(item, ast.AnnAssign)):
                line, before = lines[field.lineno - 1], lines[field.lineno - 2]
                assert "  # " in line or before.startswith("    # "), line


def assert_light(options):
    """A module of options imports nothing heavy."""
    heavy = {"torch", "lightning", "hydra", "omegaconf", "numpy"}
    code = f"import sys, {options.__name__}; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
