"""Every key of the configuration, with its type, default and comment: ``conf/README.md`` and the help of a stage.

Read from where each is written once: the dataclasses of options and of the schema, and the YAML files of the groups.
``python -m lit_llm.config.reference`` writes the page.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from lit_llm.config import schema
from lit_llm.config.conf_files import INSIDE_THE_STAGE, conf_folder, options
from lit_llm.config.export_keys import ExportConfig
from lit_llm.config.pipeline_keys import AnswersConfig, BestOfNConfig, PeopleConfig
from lit_llm.config.search_keys import OptunaOptions
from lit_llm.config.signatures import options_of
from lit_llm.config.slurm_keys import SlurmConfig
from lit_llm.runtime.atomic_files import write_text

ROOTS = (  # (heading, what stands before its keys, the dataclass)
    ("A run: `scripts/train.py`", "", schema.TrainConfig),
    ("`trainer`", "trainer.", schema.TrainerConfig),
    ("`trainer.slurm`; of a sweep with `hydra/launcher=slurm`: `hydra.launcher`", "trainer.slurm.", SlurmConfig),
    ("`hydra.sweeper` with `hydra/sweeper=optuna`", "hydra.sweeper.", OptunaOptions),
    ("`evaluation`", "evaluation.", schema.EvaluationConfig),
    ("`paths`", "paths.", schema.PathsConfig),
    ("A pipeline: `scripts/pipeline.py`", "", schema.PipelineConfig),
    ("`people`, of a pipeline", "people.", PeopleConfig),
    ("`answers`, of a pipeline", "answers.", AnswersConfig),
    ("`best_of_n`, of a pipeline", "best_of_n.", BestOfNConfig),
    ("`export`, of a pipeline", "export.", ExportConfig),
)
GROUPS = ("stage", "data", "backbone", "tokenizer", "optimizer", "schedule", "loss", "reward", "callbacks", "logger",
          "trainer", "debug")  # fmt: skip
PAGE = """# Every key

Written by `python -m lit_llm.config.reference` from the dataclasses of the options and the files of this folder. A key
is given on the command line as `KEY=VALUE`; of a step of a pipeline as `stages.STEP.KEY=VALUE`. Another file of a group
is chosen with `GROUP=NAME`, for a step with `GROUP@stages.STEP.GROUP=NAME`. `--help` shows the usual keys,
`stage=NAME --help` those of a stage, `--cfg job` what a command would run with.

The commands run what Hydra composes of these files, so that in a program of your own

```python
import hydra

hydra.initialize_config_module("lit_llm.conf", version_base="1.3")
cfg = hydra.compose("train", ["stage=dpo", "loss=ipo"])
```

gives the configuration of `python scripts/train.py stage=dpo loss=ipo`, unchecked: the commands check ranges, names and
places too. Two things are decided later, since they need
the model or the run: what a pretrained model's size says of values that were not given (`pretrained_defaults`), and the
words of a run that `resume=FOLDER` goes on with.

A file of your own in `my_conf/experiment/mine.yaml`, for `--config-dir my_conf experiment=mine`, says what differs:

```yaml
# @package _global_
defaults:
  - override /stage: dpo # with all that conf/run/dpo.yaml chooses
  - override /optimizer: muon
optimizer:
  lr: 1.0e-5
trainer:
  max_steps: 300
```

One of a pipeline stands in place of `experiment/default.yaml`, the default chain, so it begins with that:

```yaml
# @package _global_
defaults:
  - default
  - _self_
stages:
  ppo:
    stage: {kl_coef: 0.2}
```

| folder | what it holds |
|---|---|
| [run/](run) | the data, optimizer, schedule and limits that are usual for a stage: `run=NAME`; `stage=NAME` takes it |
| [stage/](stage), [data/](data), [backbone/](backbone) ... | groups: one file an option |
| [experiment/](experiment) | whole pipelines (`default`, `tiny`), and runs with a name of their own (`ppo_ptx`) |
| [hparams_search/](hparams_search) | a sweep for each stage; in [optuna/](hparams_search/optuna) a search |
| [slurm/](slurm) | what jobs are asked for with: `slurm@trainer.slurm=NAME` takes a file of your own |
| [paths/](paths) | where outputs and caches lie |
| [debug/](debug) | short runs, laid over any other |
"""


@dataclass(frozen=True)
class Key:
    name: str
    type: str
    default: str
    comment: str


def keys_of(kind: type) -> list[Key]:
    """The fields of a dataclass, those that it inherits first, with the comments behind or above them."""
    found: dict[str, Key] = {}
    for part in reversed(kind.__mro__):
        if part is not object and hasattr(part, "__dataclass_fields__"):
            found |= {key.name: key for key in _written_in(part)}
    return list(found.values())


def _written_in(kind: type) -> Iterator[Key]:
    source = inspect.getsource(kind)
    lines = source.splitlines()
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not _of_the_class(item):
            behind = lines[(item.end_lineno or item.lineno) - 1].partition("  # ")[2]
            default = "" if item.value is None else _default(ast.unparse(item.value))
            yield Key(item.target.id, ast.unparse(item.annotation), default, behind or _above(lines[: item.lineno - 1]))


def _of_the_class(item: ast.AnnAssign) -> bool:
    return ast.unparse(item.annotation).startswith("ClassVar")


def _default(written: str) -> str:
    """A default as the command line writes it; what a dataclass fills has a table of its own."""
    made = re.match(r"field\(default_factory=(.*)\)$", written)
    return {"list": "[]", "dict": "{}"}.get(made[1], "{...}") if made else "chosen" if written == "MISSING" else written


def _above(lines: list[str]) -> str:
    """The comment that ends right above a line."""
    found: list[str] = []
    while lines and lines[-1].strip().startswith("# "):
        found.insert(0, lines[-1].strip()[2:])
        lines = lines[:-1]
    return " ".join(found)


def keys_in(file: Path) -> list[Key]:
    """The keys at the top of a YAML file, with the comments behind or above them."""
    values: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    lines = file.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines):
        name = line.partition(":")[0]
        if name in values and not name.startswith("_") and name != "defaults":
            comment = line.partition(" # ")[2] or (_above(lines[:number]) if number > 1 else "")
            found.append(Key(name, "", _shown(values[name]), comment))
    return found


def options_in(file: Path) -> list[Key]:
    """The keys of a file of a group: types and comments of the dataclass of the options that it gives, its values."""
    values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    fields = _fields_of(_target_of(file))
    rest = [key for key in keys_in(file) if key.name not in {field.name for field in fields}]
    known = [replace(field, default=_shown(values[field.name])) for field in fields if field.name in values]
    return [*known, *(each for key in rest for each in _spelt_out(key, values[key.name]))]


def _spelt_out(key: Key, value: Any) -> Iterator[Key]:
    """The keys of a part inside a file: of a callback, of a reward model's validation."""
    fields = _fields_of(value.get("_target_")) if isinstance(value, dict) else []
    if key.comment or not fields:
        yield key
    for field in fields:
        if field.name in value:
            yield replace(field, name=f"{key.name}.{field.name}", default=_shown(value[field.name]))


def _fields_of(target: str | None) -> list[Key]:
    kind = options_of(target) if target else None
    return keys_of(kind) if kind is not None else []


def _target_of(file: Path) -> str | None:
    """What a file of a group describes; one that says what differs from another describes the same."""
    text = file.read_text(encoding="utf-8")
    if target := re.search(r"^_target_: (\S+)", text, re.MULTILINE):
        return target[1]
    other = re.search(r"^defaults:\n  - (/?)([\w/]+)", text, re.MULTILINE)
    other_file = (conf_folder() if other[1] else file.parent) / f"{other[2]}.yaml" if other else file
    return _target_of(other_file) if other_file.is_file() and other_file != file else None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    return "needed" if text in ("???", "'???'") else text


def page() -> str:
    """The text of ``conf/README.md``."""
    parts = [PAGE]
    for heading, prefix, kind in ROOTS:
        parts.append(_section(f"## {heading}", prefix, keys_of(kind)))
    for group in GROUPS:
        parts.append(f"## `{group}=NAME`\n")
        for file in sorted((conf_folder() / group).glob("*.yaml")):
            place = f"stage.{group}." if group in INSIDE_THE_STAGE else "" if group == "debug" else f"{group}."
            parts.append(_section(f"### `{group}={file.stem}`", place, options_in(file), _about(file)))
    return "\n".join(parts)


def _about(file: Path) -> str:
    """The comment that a file begins with."""
    lines = file.read_text(encoding="utf-8").splitlines()
    lines = lines[1:] if lines and lines[0].startswith("# @") else lines
    found = list(takewhile(lambda line: line.startswith("# "), lines))
    return " ".join(line[2:].strip() for line in found)


def _section(heading: str, prefix: str, keys: list[Key], about: str = "") -> str:
    lines = [heading, *([] if not about else ["", about.strip()]), ""]
    if keys:
        lines += ["| key | type | default | |", "|---|---|---|---|"]
        lines += [_row(f"{prefix}{key.name}", key) for key in keys]
        lines.append("")
    return "\n".join(lines)


def _row(name: str, key: Key) -> str:
    return f"| `{name}` | {_cell(key.type)} | {_cell(key.default)} | {_in_yaml(key.comment).replace('|', '/')} |"


def _cell(text: str) -> str:
    escaped = text.replace("|", "\\|")
    return f"`{escaped}`" if text else ""


def _in_yaml(text: str) -> str:
    """Python's words for nothing, yes and no as they are written on the command line."""
    words = {"None": "null", "True": "true", "False": "false"}
    return re.sub(r"\b(None|True|False)\b", lambda found: words[found[0]], text)


def help_of(stage: str) -> list[str]:
    """The options of a stage as lines for a terminal."""
    keys = options_in(conf_folder() / f"stage/{stage}.yaml")
    for group in INSIDE_THE_STAGE:
        if stage in options(group):
            usual = re.search(r"- (\w+)@_here_", (conf_folder() / f"{group}/{stage}.yaml").read_text(encoding="utf-8"))
            file = conf_folder() / f"{group}/{usual[1] if usual else stage}.yaml"
            others = [name for name in options(group) if name not in ("none", file.stem, *options("run"))]
            about = {name: _about(conf_folder() / f"{group}/{name}.yaml") for name in others}
            fitting = [name for name in others if "stage=" not in about[name] or f"stage={stage}" in about[name]]
            keys += [Key(group, "", file.stem, f"or {', '.join(fitting)}")]
            keys += [Key(f"{group}.{key.name}", "", key.default, key.comment) for key in options_in(file)]
    width = max((len(f"stage.{key.name}={key.default}") for key in keys), default=0)
    shown = [(key.name if key.name in INSIDE_THE_STAGE else f"stage.{key.name}", key) for key in keys]
    return [f"  {f'{name}={key.default}':<{min(width, 44)}}  {_in_yaml(key.comment)}".rstrip() for name, key in shown]


if __name__ == "__main__":
    write_text(Path(sys.argv[1]) if len(sys.argv) > 1 else conf_folder() / "README.md", page())
