"""What a file of a group in conf/ must have in common with the dataclass of the options that it gives."""

import ast
import dataclasses
import itertools
import re
import subprocess
import sys
from pathlib import Path

import yaml

from lit_llm.config.signatures import options_of
from lit_llm.config.targets import HYDRA_KEYS, construct

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("stage", "data", "backbone", "tokenizer", "optimizer", "schedule", "loss", "reward", "callbacks", "logger")


def files(group):
    """The names of a group's files that describe a part (others say what differs from one); of a file with several
    parts, callbacks, each as file.part."""
    found = []
    for path in sorted((CONF / group).glob("*.yaml")):
        values = yaml.safe_load(path.read_text()) or {}
        parts = [key for key, value in values.items() if isinstance(value, dict) and "_target_" in value]
        found += [path.stem] if "_target_" in values else [f"{path.stem}.{part}" for part in parts]
    return found


def lines_of(group, name):
    """The lines of the file that describe the part."""
    file, _, part = name.partition(".")
    lines = (CONF / group / f"{file}.yaml").read_text().splitlines()
    if not part:
        return lines
    rest = lines[lines.index(f"{part}:") + 1 :]
    return list(itertools.takewhile(lambda line: line.startswith(" "), rest))


def content(group, name):
    """The target of a file, and the options that it gives."""
    file, _, part = name.partition(".")
    text = (CONF / group / f"{file}.yaml").read_text()
    values = yaml.safe_load(text.replace("${paths.cache}", "outputs/cache"))  # what conf/paths/default.yaml comes to
    values = values[part] if part else values
    kind = options_of(values["_target_"])
    others = {*HYDRA_KEYS, "defaults", *kind.NEEDS, *kind.TAKES}
    return values["_target_"], {key: value for key, value in values.items() if key not in others}


def kind_of(group, name):
    """The class that a file names, and the class of its options."""
    target, values = content(group, name)
    given = {key: "some/file" for key, value in values.items() if value == "???"}
    made = construct({"_target_": target, "_partial_": True, **given}, group).func
    return made, made.Options


def assert_read(group, name, options, by_options=()):
    """Every field is read somewhere in the room of a module of options, but those that the options read themselves."""
    sources = " ".join(path.read_text() for path in Path(options.__file__).parent.rglob("*.py"))
    for field in {field.name for field in dataclasses.fields(options_of(content(group, name)[0]))} - set(by_options):
        assert re.search(rf"\boptions\.{field}\b", sources), field


def assert_comments(file):
    """Every field of the dataclasses of a file has a comment, behind it or above it."""
    text = file.read_text()
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            for field in (item for item in node.body if isinstance(item, ast.AnnAssign)):
                line, before = lines[field.lineno - 1], lines[field.lineno - 2]
                assert "ClassVar" in line or "  # " in line or before.startswith("    # "), f"{file}: {line}"


def assert_light(*modules):
    """Modules of options import nothing heavy."""
    heavy = {"torch", "lightning", "hydra", "omegaconf", "numpy", "tokenizers"}
    code = f"import sys, {', '.join(modules)}; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
