"""Keys, dotted names and words of the command line of earlier versions: read all the same, with a line that says what
they are called now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from lit_llm.config.conf_files import INSIDE_THE_STAGE, conf_folder, options

KEYS = {  # of a stage, wherever it stands
    "exam": "reward_validation",
    "ignore_exam": "ignore_reward_validation",
    "exam_every_n_steps": "reward_validation_every_n_steps",
}
TARGETS = {
    "lit_llm.evaluation.reward_exam.RewardExam": "lit_llm.rewards.validation.validator.RewardValidator",
    "lit_llm.loggers.": "lit_llm.training.loggers.",
    "lit_llm.sweep.": "lit_llm.training.sweep.",
}
"""A name, or the beginning of names."""


def target(text: str) -> str:
    """What a dotted path to code is called now."""
    for old, new in TARGETS.items():
        if text.startswith(old):
            return new + text[len(old) :]
    return text


def values(saved: Any, of_stage: bool = False) -> Any:
    """A saved configuration's plain values, by the names of now. ``of_stage``: whether they stand below ``stage``."""
    if isinstance(saved, Mapping) and "stages" in saved and "rankings" in (saved.get("people") or ()):
        people = dict(saved["people"])
        asked = people.pop("rankings") or "simulated"
        saved = {**saved, "people": people, "rankings": asked, "annotation": saved.get("rankings")}
    if isinstance(saved, Mapping):
        return {
            KEYS.get(str(key), key) if of_stage else key: values(value, key == "stage") for key, value in saved.items()
        }
    if isinstance(saved, list):
        return [values(value) for value in saved]
    return target(saved) if isinstance(saved, str) else saved


def word(config_name: str, override: str) -> tuple[list[str], str | None]:
    """An override by the names of now, and the line that tells of it; None where nothing is renamed."""
    if override.startswith("-"):
        return [override], None
    key, equals, value = override.partition("=")
    marks = key[: len(key) - len(key.lstrip("+~"))]
    key, value = _of_stage(key[len(marks) :], value)
    now = (_of_pipeline if config_name == "pipeline" else _of_train)(marks, key, value) if equals else None
    words = [f"{marks}{key}{equals}{value}"] if now is None else now
    return words, None if words == [override] else f"{override}: is written {' '.join(words) or 'no more'} now"


def _of_stage(key: str, value: str) -> tuple[str, str]:
    parts = key.split(".")
    place = {"stage": 1, "stages": 3 if parts[2:3] == ["stage"] else 2}.get(parts[0], len(parts))
    parts[place : place + 1] = [KEYS.get(part, part) for part in parts[place : place + 1]]
    value = value.replace("exam/", "reward_validation/", 1) if parts[-1] == "monitor" else target(value)
    return ".".join(parts), value


def _of_train(marks: str, key: str, value: str) -> list[str] | None:
    """A word of one run, where it is written in another way now."""
    if key == "experiment" and value == "null":
        return []
    if key == "experiment" and all(name in options("run") for name in value.split(",")):
        return [f"run={value}"]
    if key in INSIDE:
        return [f"{INSIDE[key]}={value}"]
    if key == "format" and (value == "null" or "." in value):  # a function's dotted path is no file of the group
        return [f"data.format={value}"]
    return _of_a_run("", marks, key, value)


INSIDE = {"loss@stage.loss": "loss", "stage/loss": "loss", "reward@stage.reward": "reward", "stage/reward": "reward",
          "format@data": "format"}  # fmt: skip
NULL = {"logger": "none", "callbacks": "none", "debug": "none"}  # Hydra has no null for a group


def _of_a_run(run: str, marks: str, key: str, value: str) -> list[str] | None:
    """The same, of the run whose keys begin with ``run``."""
    if key in NULL and value == "null":
        return [f"{key}{f'@{run}{key}' if run else ''}={NULL[key]}"]
    if key == "evaluation" and value == "null":
        return [f"{run}evaluation.enabled=false"]
    if key == "gold":
        return [f"{run}stage.gold=null" if value == "null" else f"+reward@{run}stage.gold={value}"]
    if key.startswith("part."):
        return [f"+reward@{run}stage.reward.parts.{key.removeprefix('part.')}.reward={value}"]
    if not marks and key.startswith("stage.reward.parts.") and key.endswith(".weight"):
        return [f"++{run}{key}={value}"]
    return None


def _of_pipeline(marks: str, key: str, value: str) -> list[str] | None:
    """A word of a pipeline, where it is written in another way now."""
    first, _, rest = key.partition(".")
    if key == "from":
        return [f"start_from={value}"]
    if key == "experiment" and value.removeprefix("pipeline/") in options("experiment") and "/" in value:
        return [f"experiment={value.removeprefix('pipeline/')}"]
    if key == "people.rankings":
        return [f"rankings={'simulated' if value == 'null' else value}"]
    if key == "rankings" and (value == "null" or value.startswith("{")):
        return [f"{marks}annotation={value}"]
    if first == "rankings" and rest:
        return [f"{marks}{'people' if rest in ('enough', 'overlap') else 'annotation'}.{rest}={value}"]
    if (key, value) == ("best_of_n", "null"):
        return ["best_of_n.n=0"]
    if (key, value) == ("debug", "null"):
        return ["debug=none"]
    found = re.fullmatch(r"stages\.(\w+)\.(.+)", key)
    return _of_step(marks, f"stages.{found[1]}.", found[2], value) if found else None


def _of_step(marks: str, run: str, key: str, value: str) -> list[str] | None:
    """A word of one step: its stage's key, or another option of one of its groups."""
    now = _of_a_run(run, marks, key, value)
    first = key.partition(".")[0]
    if now is not None or value.startswith("{"):
        return now
    if key in INSIDE_THE_STAGE:
        return [f"{marks}{key}@{run}stage.{key}={value}"]
    if key == "format":
        return [f"{run}data.format={value}"]
    if key == first and (conf_folder() / key).is_dir():
        return [f"{marks}{key}@{run}{key}={value}"]
    return [f"{marks}{run}stage.{key}={value}"] if first in stage_keys() - RUN else None


RUN = {"seed", "defaults"}
"""What stands in files of stages and is no key of a stage alone."""


@cache
def stage_keys() -> set[str]:
    """The keys of all files in conf/stage/."""
    files = (conf_folder() / "stage").glob("*.yaml")
    return {
        key for file in files for key in re.findall(r"^([a-z]\w*):", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
