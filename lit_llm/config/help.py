"""The options of the Hydra commands (words that begin with a dash), and what --help says."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from lit_llm.config.conf_files import conf_folder, options
from lit_llm.config.reference import help_of
from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import nearest

SHORT = {"-h": "--help", "-m": "--multirun", "-r": "--run", "-c": "--cfg", "-p": "--package", "-i": "--info",
         "-cd": "--config-dir", "-sc": "--shell-completion", "-cp": "--config-path",
         "-cn": "--config-name"}  # fmt: skip
VALUES: dict[str, tuple[str, ...]] = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--config-dir": (),  # anything
    "--package": (),
}
ALONE = ("--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun", "--shell-completion")
NOT_TAKEN = {
    "--config-path": "the configuration is the package's; --config-dir=FOLDER adds to it",
    "--config-name": "the configuration is the package's; experiment=NAME chooses",
    "--experimental-rerun": "it reads a pickle, which can run code; resume=FOLDER goes on with a run",
}


def options_first(arguments: Sequence[str]) -> list[str]:
    """The options, each as ``--name`` or ``--name=value``, then the overrides: Hydra's parser loses overrides that come
    after an option (``a=1 -m b=1,2``). Raises UserError for an unknown option, or a value that one does not take."""
    found: list[str] = []
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        name = SHORT.get(name, name)
        _known(name, word)
        if name in VALUES:
            if not equals and rest and (rest[0] in VALUES[name] or (not VALUES[name] and not rest[0].startswith("-"))):
                equals, value = "=", rest.pop(0)
            value = _value(name, value)
            found.append(f"{name}={value}")
        elif equals:
            raise UserError(f"{word}: takes no value; write {name}")
        else:
            found.append(name)
    return [*found, *words]


def _known(name: str, word: str) -> None:
    if name in NOT_TAKEN:
        raise UserError(f"{name}: {NOT_TAKEN[name]}")
    if name not in ALONE and name not in VALUES:
        known = [*ALONE, *VALUES]
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near else f"known here: {', '.join(known)}"
        raise UserError(f"{word}: unknown option; {hint}")


def _value(name: str, value: str) -> str:
    if not value and name == "--info":
        return "all"
    if not value:
        wanted = ", ".join(VALUES[name]) or ("FOLDER" if name == "--config-dir" else "NAME")
        raise UserError(f"{name}: needs a value ({wanted})")
    if VALUES[name] and value not in VALUES[name]:
        raise UserError(f"{name}={value}: must be one of {', '.join(VALUES[name])}")
    return value


# Help

GROUPS = ("stage", "backbone", "tokenizer", "data", "format", "loss", "reward", "optimizer", "schedule", "trainer",
          "callbacks", "logger", "debug", "hparams_search")  # fmt: skip


def text_for(config_name: str, words: Sequence[str] = ()) -> str:
    """What --help prints: ``hydra.help`` of the command; with ``stage=NAME`` the options of that stage."""
    stage = next((word.partition("=")[2] for word in words if word.startswith(("stage=", "run="))), None)
    if config_name == "train" and stage in options("stage"):
        lines = [part for line in help_of(stage) for part in textwrap.wrap(line, 118, subsequent_indent=" " * 8)]
        rest = "  also: every key of data, optimizer, schedule, trainer ...: conf/README.md, or --cfg job"
        return "\n".join([f"python scripts/train.py stage={stage} [KEY=VALUE ...]", "", *lines, "", rest])
    template: str = OmegaConf.load(conf_folder() / f"hydra/{config_name}.yaml").help.template
    if config_name == "pipeline":
        return template.replace("$APP_CONFIG_GROUPS", "\n".join(_wrapped(f"Steps: {', '.join(_steps())}"))).rstrip()
    known = {group: options(group) for group in GROUPS} | {"experiment": _of_a_run("experiment")}
    groups = [line for group, names in known.items() for line in _wrapped(f"  {group}={' | '.join(names)}")]
    return template.replace("$APP_CONFIG_GROUPS", "\n".join(groups)).rstrip()


def _of_a_run(group: str) -> list[str]:
    """The files of a group that set keys of a run, and not those of a pipeline."""
    place = conf_folder() / group
    return [name for name in options(group) if "\nstages:" not in (place / f"{name}.yaml").read_text(encoding="utf-8")]


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 118, subsequent_indent="    ", break_on_hyphens=False)


def _steps() -> list[str]:
    """The stages in the order of conf/pipeline.yaml, and the step that collects rankings."""
    lines = Path(conf_folder() / "pipeline.yaml").read_text(encoding="utf-8").splitlines()
    return [*(line.split("stages.")[1].split(":")[0] for line in lines if "- run@stages." in line), "rankings"]
