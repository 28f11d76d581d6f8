"""Shorthands of the command line in Hydra words: ``stage=ppo``, ``loss=ipo``, ``stages.ppo.KEY=``, ``resume=``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lit_llm.config import hydra_node, interruption, renamed, schema, yaml_files
from lit_llm.config.group_choices import without_strangers
from lit_llm.config.overrides import (
    composed,
    composing,
    conf_folder,
    literal,
    override_words,
    parsed,
    people_words,
    quoted,
    search_path,
    text_of,
)
from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import hint

INSIDE_THE_STAGE = ("loss", "reward")  # groups that fill a key of the stage
# What a run can do without, in Hydra's words, which has no null for a group.
NULLS = {
    "logger": "~logger{at}",
    "callbacks": "callbacks{at}=none",  # what no run can do without stays
    "evaluation": "{run}evaluation.enabled=false",
    "gold": "{run}stage.gold=null",
    "experiment": "~experiment",
    "debug": "~debug",
}


def rewrite(config_name: str, arguments: list[str]) -> list[str]:
    """Our shorthands in Hydra's words. Options (``--multirun``, ``--cfg``) are left as they are."""
    arguments = literal([renamed.word(one)[0] for one in arguments])
    if config_name == "pipeline":
        arguments = debugged(arguments)
        words = [some for word in arguments for some in people_words(word) or [_pipeline_word(word)]]
    else:
        words = _resumed(_usual_choices([_train_word(word) for word in arguments]))
    return _own_limits(without_strangers(config_name, words))


def _train_word(word: str) -> str:
    """loss, reward, gold and part.NAME (of a weighted sum) choose what is inside the stage, format inside its data."""
    key, equals, value = word.partition("=")
    if equals and value == "null" and (instead := _null("", key)) is not None:
        return instead
    return _inside("", key, value) or word if equals else word


def _null(run: str, key: str) -> str | None:
    """What a group of a run that is set to null comes to; None: no group, or one that knows null by itself."""
    group = key.removeprefix("stage/")
    if group in NULLS:
        return NULLS[group].format(run=run, at=f"@{run}{group}" if run else "")
    if group in INSIDE_THE_STAGE or (
        group in schema.TrainConfig.__dataclass_fields__ and (conf_folder() / group).is_dir()
    ):
        raise UserError(f"{run}{key}=null: a run needs one; give the name of a file in conf/{group}/, or leave it out")
    return None


def _inside(run: str, key: str, value: str) -> str | None:
    """The override for a group that fills a key of another group, of the run whose keys begin with ``run``."""
    if key.removeprefix("stage/") in INSIDE_THE_STAGE:
        key = key.removeprefix("stage/")
        return f"{key}@{run}stage.{key}={value}"
    if key == "gold" and value != "null":
        return f"+reward@{run}stage.gold={value}"
    if key.startswith("part."):
        return f"+reward@{run}stage.reward.parts.{key.removeprefix('part.')}.reward={value}"
    if key.startswith("stage.reward.parts.") and key.endswith(".weight"):  # 1 where nothing is said
        return f"++{run}{key}={value}"
    if key == "format":  # a function's dotted path is no file of the group
        return f"{run}data.format={value}" if "." in value or value == "null" else f"+format@{run}data={value}"
    return None


def _pipeline_word(word: str) -> str:
    """from=NAME, experiment=NAME of a pipeline, stages.NAME.KEY of the stage itself, or of one of its groups."""
    key, equals, value = word.partition("=")
    if not equals or key.startswith("-"):
        return word
    if key == "from":
        return f"start_from={value}"
    if key == "experiment" and "/" not in value and (conf_folder() / f"experiment/pipeline/{value}.yaml").is_file():
        return f"experiment=pipeline/{value}"
    prefix = key[: len(key) - len(key.lstrip("+~"))]
    parts = key.lstrip("+~").split(".")
    if value == "null" and key in ("best_of_n", "experiment"):
        if key == "experiment":
            raise UserError(
                "experiment=null: a chain is made of its sizes, steps and rates; leave it out for the usual"
            )
        return "best_of_n.n=0"
    if parts[0] == "stages" and (len(parts) == 3 or parts[2:3] == ["part"]):
        known = schema.TrainConfig.__dataclass_fields__
        if value == "null" and (instead := _null(f"stages.{parts[1]}.", parts[2])) is not None:
            return instead
        inside = _inside(f"stages.{parts[1]}.", ".".join(parts[2:]), value)
        if inside is not None:
            return inside if inside.startswith("+") else prefix + inside
        if parts[2] not in known:
            parts.insert(2, "stage")
        elif (conf_folder() / parts[2]).is_dir():  # a group of that stage: another option of it
            return f"{prefix}{parts[2]}@{'.'.join(parts)}={value}"
    return f"{prefix}{'.'.join(parts)}={value}"


def _own_limits(arguments: list[str]) -> list[str]:
    """A limit on the command line stands in place of the usual ones; of several given whichever comes first ends."""
    given = {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in arguments if "=" in word}
    if given.get("debug", "null") != "null":  # the overlays bring limits of their own
        return arguments
    limits, chosen = ("max_steps", "max_epochs", "max_tokens"), dict.fromkeys(k.rpartition(".")[0] for k in given)
    more = []
    for trainer in (one for one in chosen if one.rpartition(".")[2] == "trainer"):
        if any(given.get(f"{trainer}.{name}", "null") != "null" for name in limits):
            more += [f"{trainer}.{name}=null" for name in limits if f"{trainer}.{name}" not in given]
    return [*arguments, *more]


def _usual_choices(arguments: list[str]) -> list[str]:
    """stage=NAME alone also takes experiment/NAME.yaml: the data, optimizer and schedule that are usual for it."""
    given = dict(word.partition("=")[::2] for word in arguments if "=" in word and not word.startswith("-"))
    name = given.get("stage") if "~experiment" not in arguments else None
    several = name and ("," in name or "(" in name)
    if name and several and "experiment" not in given:  # a sweep: every job takes what is usual for its own stage
        for one in name.split(",") if "(" not in name else []:
            if not (conf_folder() / f"experiment/{one}.yaml").is_file():
                raise UserError(f"stage={name}: no experiment/{one}.yaml says what is usual for it; sweep experiment=")
        return [f"experiment={name}" if word == f"stage={name}" else word for word in arguments]
    if name and "experiment" not in given and (conf_folder() / f"experiment/{name}.yaml").is_file():
        return [*arguments, f"experiment={name}"]
    return arguments


def _resumed(arguments: list[str]) -> list[str]:
    """resume=FOLDER: the folder of the run, and its own overrides, of which those given anew win.

    What the folder's files say about Hydra, or which code may run (allowed_targets), is not taken: it may be somebody
    else's.
    """
    given = {
        word.partition("=")[0].lstrip("~"): word.partition("=")[2]
        for word in arguments
        if "=" in word or word.startswith("~")
    }
    place = text_of(given["resume"]) if "resume" in given else None
    if place in (None, "", "auto", "null") or any(word in ("-m", "--multirun") for word in arguments):
        return arguments
    assert place is not None
    saved = Path(place) / ".hydra" / "overrides.yaml"
    if not Path(place).is_dir():
        raise UserError(f"resume={place}: no such run folder")
    found = yaml_files.load(saved, list) if saved.is_file() else OmegaConf.create([])
    overrides: Any = OmegaConf.to_container(found, resolve=False)  # Hydra reads what its words name
    if not all(isinstance(word, str) for word in overrides):
        raise UserError(f"resume={place}: {saved} must be a list of overrides; resume by the run's own command line")
    ours = [
        word
        for word in overrides
        if not word.lstrip("+~").startswith(("hydra", "-", "allowed_targets", "resume="))
        and not hydra_node.touched_by(word)
    ]
    kept = [renamed.word(word)[0] for word in ours if word.partition("=")[0].lstrip("~") not in given]
    for word in kept:
        if interruption.names_code(word):
            raise UserError(f"resume={place}: its saved {word} names code; if you trust it, give {word} again")
    where = [] if "hydra.run.dir" in given else [f"hydra.run.dir={quoted(place)}"]
    return [*kept, *arguments, *where]


def debugged(arguments: list[str]) -> list[str]:
    """debug=NAME of a pipeline: the overlay on every stage."""
    words: list[str] = []
    for word in arguments:
        key, _, name = word.partition("=")
        if key != "debug" or name == "null":
            words += [word] if key != "debug" else []
        elif name == "fast_dev_run":
            raise UserError("debug=fast_dev_run: keeps no model, which the next stage needs; debug=limit does")
        elif not (conf_folder() / f"debug/{name}.yaml").is_file():
            known = [path.stem for path in (conf_folder() / "debug").glob("*.yaml")]
            raise UserError(f"debug={name}: no such debug; {hint(name, known)}")
        else:
            words += [f"+debug@stages.{stage}={name}" for stage in _stages_of(arguments)]
    return words


def _stages_of(arguments: list[str]) -> list[str]:
    """The stages of the pipeline that the other words describe."""
    words, folders = override_words([word for word in arguments if not word.startswith("debug=")])
    words = [some for word in words for some in people_words(word) or [_pipeline_word(word)]]
    findings: list[str] = []
    with composing():
        cfg = composed("pipeline", list(parsed([*search_path(words, folders), *words], findings)), findings)
    return [str(name) for name in cfg.stages] if cfg is not None else []
