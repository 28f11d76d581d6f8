"""The options of the Hydra commands (words that begin with a dash), and what --help says."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from lit_llm.config.overrides import conf_folder
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
          "callbacks", "logger", "debug")  # fmt: skip

TRAIN = """Train one stage: python scripts/train.py stage=NAME [KEY=VALUE ...]

  stage=NAME                  what to train; takes the data, optimizer and schedule that are usual for it
  init_from=FOLDER            start from a model folder;  resume=FOLDER goes on with a stopped run (or resume=auto)
  data.path=FILE              a file, a folder, a glob, hub:ID, a list, {train: FILE, test: FILE}, {FILE: WEIGHT}
  data.micro_batch_size=N     rows at once;  trainer.global_batch_size=N  rows a step
  trainer.max_steps=N         or trainer.max_epochs=N, trainer.max_tokens=N; the first that is reached ends the run
  optimizer.lr=X              schedule.warmup_ratio=X
  reward=NAME, gold=NAME      of a policy;  loss=NAME  of a preference stage
  stage.lora_rank=16          train adapters
  evaluation.objective=SET/MEASURE   what sweeps compare, less being better (-SET/MEASURE: more is)
  seed=N  hydra.run.dir=FOLDER  'allowed_targets=[my_package.]'"""

PIPELINE = """Run the chain of stages: python scripts/pipeline.py [KEY=VALUE ...]

  experiment=NAME             default, or tiny: everything in a minute, nothing learned
  from=STEP                   compute that step and what follows anew;  with init_from=FOLDER in place of the one before
  skip=[STEP,STEP]            leave steps out, with what needs them
  stages.STEP.KEY=VALUE       any key of scripts/train.py for one step, such as stages.ppo.kl_coef=0.1,
                              stages.pretraining.trainer.max_steps=500, stages.dpo.loss=ipo
  rankings=FILE               people's rankings: a project, a file, a folder;  or ask: waits for rankings.enough=N
  win_rate=FILE.db            people's blind verdict for the report
  answers.prompts=[...]       asked of every stage;  best_of_n.n=N  the control of PPO (0: none)
  debug=limit                 five steps of every stage
  objective=STEP              the step that sweeps compare
  hydra.run.dir=FOLDER  cache_dir=FOLDER  'allowed_targets=[my_package.]'"""

OPTIONS = """Options:
  --cfg job                   show every key with its value, and run nothing (--cfg job --package optimizer: a part)
  --multirun, -m              a sweep: KEY=A,B runs every combination
  --config-dir FOLDER         a folder of your own with groups (experiment/NAME.yaml) beside the package's
  --info [WHAT]               where the configuration comes from;  --version, --hydra-help"""


def text_for(config_name: str, words: Sequence[str] = ()) -> str:
    """What --help prints; with ``stage=NAME`` beside it the options of that stage."""
    stage = next((word.partition("=")[2] for word in words if word.startswith("stage=")), None)
    if config_name == "train" and stage in _names("stage"):
        lines = [part for line in help_of(stage) for part in textwrap.wrap(line, 118, subsequent_indent=" " * 8)]
        rest = "  also: every key of data, optimizer, schedule, trainer ...: conf/README.md, or --cfg job"
        return "\n".join([f"python scripts/train.py stage={stage} [KEY=VALUE ...]", "", *lines, "", rest])
    if config_name == "pipeline":
        return "\n".join([PIPELINE, "", *_wrapped(f"Steps: {', '.join(_steps())}"), "", OPTIONS])
    groups = [line for group in (*GROUPS, "experiment") for line in _wrapped(f"  {group}={' | '.join(_names(group))}")]
    return "\n".join([TRAIN, "", "Choices:", *groups, "", OPTIONS])


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 118, subsequent_indent="    ", break_on_hyphens=False)


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def _steps() -> list[str]:
    """The stages in the order of conf/pipeline.yaml, and the step that collects rankings."""
    lines = Path(conf_folder() / "pipeline.yaml").read_text(encoding="utf-8").splitlines()
    return [*(line.split("stages.")[1] for line in lines if "- run@stages." in line), "rankings"]
