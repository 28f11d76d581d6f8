"""The front door of the Hydra commands: shorthands, and every mistake as one clear line and exit status 2.

Hydra answers a wrong override with a traceback or a hint about ``+``; here the overrides are composed once before
Hydra runs, all that is wrong is collected, and the nearest right name is given.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import hydra.core.utils
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_llm.config import hydra_node, interruption, renamed, schema, yaml_files
from lit_llm.config.environment import named_by_environment
from lit_llm.config.given_values import given_in
from lit_llm.config.group_choices import without_strangers
from lit_llm.config.help import options_first, text_for
from lit_llm.config.overrides import (
    CONFIG,
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
from lit_llm.config.paths import wrong_places
from lit_llm.config.pretrained_defaults import lines, settled
from lit_llm.config.validation import validate
from lit_llm.errors import UserError
from lit_llm.runtime import devices
from lit_llm.runtime.atomic_files import write_text
from lit_llm.runtime.out_of_resources import one_line
from lit_llm.runtime.run_folder import unfinished
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


def command(config_name: str, job: Callable[[DictConfig], Any], argv: list[str] | None = None) -> None:
    """Run ``job(cfg)`` under Hydra on the command line's overrides; exits with 2 on a user's mistake."""
    schema.register()
    sys.path.append(str(Path.cwd()))  # modules of one's own: a reward, a format, a stage
    interruption.given[:] = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = options_first(interruption.given)
        if any(word in ("--help", "-h") for word in arguments):
            print(text_for(config_name, arguments))
            raise SystemExit(0)
        for line in filter(None, (renamed.word(word)[1] for word in arguments)):
            print(f"note: {line}", file=sys.stderr)
        arguments = going_on(config_name, check(config_name, rewrite(config_name, arguments)))
    except UserError as error:
        complain(error)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    whole_files()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # exceptions come here instead of Hydra's own printing
    sys.argv[1:] = arguments
    decorated = hydra.main(version_base="1.3", config_path=f"pkg://{CONFIG}", config_name=config_name)(job)
    try:
        decorated()
    except UserError as error:
        complain(error)
        raise SystemExit(2) from None
    except (HydraException, OmegaConfBaseException) as error:
        complain(_own(error) or UserError(str(error).splitlines()[0]))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        told = _no_folder(error, arguments) or one_line(error)
        if told is None:
            raise
        complain(told)
        raise SystemExit(2) from None


def _no_folder(error: Exception, words: list[str]) -> UserError | None:
    """What to say where the folder of a run could not be made: Hydra makes it before anything of ours runs."""
    folder = _run_folder(words)
    if folder is None or not isinstance(error, OSError) or not error.filename or folder.is_dir():
        return None
    folder, place = Path.cwd() / folder, Path.cwd() / str(error.filename)
    if place != folder and place not in folder.parents:
        return None
    return UserError(f"hydra.run.dir={folder}: cannot be made ({error.strerror}); give a folder you may write to")


def whole_files() -> None:
    """Hydra's own files are written whole or not at all, and a log that cannot be written is no error of its own.

    Hydra empties ``.hydra/overrides.yaml`` before it writes it again: resumed on a full disk, a run would lose what it
    was called with.
    """

    def save(cfg: DictConfig, filename: str, output_dir: Path) -> None:
        write_text(output_dir / filename, OmegaConf.to_yaml(cfg))

    hydra.core.utils._save_config = save
    logging.raiseExceptions = False


def _own(error: BaseException | None) -> UserError | None:
    """The message that was meant for the user, where Hydra has wrapped it while it called a ``_target_``."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def complain(error: UserError) -> None:
    """One line on stderr for every finding."""
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)


# Shorthands


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


def going_on(config_name: str, arguments: list[str]) -> list[str]:
    """resume=auto without a folder: the newest unfinished run of this very configuration, else a new run."""
    if "resume=auto" not in arguments or config_name != "train":
        return arguments
    if any(word.startswith(("hydra.run.dir=", "-m", "--multirun", "--cfg")) for word in arguments):
        return arguments
    words, folders = override_words(arguments)
    with composing():
        cfg = hydra.compose(config_name, [*search_path(words, folders), *words], return_hydra_config=True)
    runs = Path("outputs") / cfg.hydra.runtime.choices.stage
    plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    plain = settled(plain, lambda: given_in(config_name, arguments))
    found = unfinished(runs, schema.identity(plain))
    print(f"resume=auto: {f'going on with {found}' if found else f'no unfinished run of this configuration in {runs}'}")
    return [*arguments, f"hydra.run.dir={quoted(str(found))}"] if found else arguments


# Checking


def check(config_name: str, arguments: list[str]) -> list[str]:
    """Composes what the overrides say and validates it. Raises UserError with all findings; returns the arguments."""
    if any(word in ("--hydra-help", "--version", "--shell-completion", "-sc") for word in arguments):
        return arguments
    schema.register()
    words, folders = override_words(arguments)
    for folder in folders:
        if not Path(folder).expanduser().is_dir():
            raise UserError(f"--config-dir={folder}: no such folder; give one with groups such as experiment/ in it")
    findings: list[str] = []
    with composing():
        several = any(word in ("-m", "--multirun") for word in arguments)
        overrides = list(parsed([*search_path(words, folders), *words], findings, several=several))
        cfg = composed(config_name, overrides, findings)
        findings += list(_without_effect(cfg, words)) if cfg is not None else []
        if cfg is not None and not findings:
            findings += list(_hydra_s_own(config_name, cfg, words, folders))
        if cfg is not None and not findings:
            try:
                cfg = settled(cfg, lambda: given_in(config_name, arguments), _run_folder(words))
                for line in lines(schema.plain(cfg)) if _only_shows(arguments) else ():  # Hydra shows its own values
                    print(f"# {line}", file=sys.stderr)
            except UserError as error:
                findings += str(error).splitlines()
        if cfg is not None and not _only_shows(arguments):
            try:
                validate(cfg)
                findings += [] if several else list(not_there(cfg))
            except UserError as error:
                findings += str(error).splitlines()
    if findings:
        raise UserError("\n".join(dict.fromkeys(findings)))
    return arguments


def not_there(cfg: DictConfig) -> Iterator[str]:
    """A line for every folder, file and device that the configuration names and that is not there."""
    values = schema.plain(cfg)
    yield from wrong_places(values)
    yield from devices.faults(values)


def _hydra_s_own(config_name: str, cfg: DictConfig, words: list[str], folders: list[str]) -> Iterator[str]:
    """What is wrong with Hydra's own part, where the command line or a folder of the user's changes it."""
    if not folders and not any(map(hydra_node.touched_by, words)):
        return
    findings: list[str] = []
    overrides = list(parsed([*search_path(words, folders), *words], findings, hydra_too=True))
    whole = composed(config_name, overrides, findings, hydra_too=True)
    yield from findings
    if whole is not None:
        node: Any = OmegaConf.to_container(whole.hydra, resolve=False)
        try:
            yield from named_by_environment({"hydra": schema.written_to(whole)})
        except (OmegaConfBaseException, ValueError) as error:
            yield f"hydra: {next(iter(str(error).splitlines()), type(error).__name__)}"
        yield from hydra_node.findings(node, list(cfg.get("allowed_targets") or ()))


def compose(config_name: str, overrides: list[str]) -> DictConfig:
    """The configuration that the command line would give, for tests and for other commands."""
    schema.register()
    words = rewrite(config_name, overrides)  # which may compose too
    with composing():
        cfg = hydra.compose(config_name, words)
    return settled(cfg, lambda: given_in(config_name, words), _run_folder(words))


def _run_folder(words: list[str]) -> Path | None:
    found = [word.partition("=")[2] for word in words if word.startswith("hydra.run.dir=")]
    return Path(text_of(found[-1])) if found else None


def _only_shows(arguments: list[str]) -> bool:
    return any(word.startswith(("--cfg", "-c", "--info")) for word in arguments)


def _without_effect(cfg: DictConfig, words: list[str]) -> Iterator[str]:
    """A model's folder brings its backbone and tokenizer: what is said about them besides would be read by nobody."""
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        found = re.fullmatch(r"(stages\.[^.]+\.)?(backbone|tokenizer)(\..+)?", key.partition("@")[2] or key)
        if found is None or (found[2], found[3]) == ("backbone", ".dropout"):
            continue
        plain: Any = OmegaConf.to_container(cfg, resolve=False)
        for part in (found[1] or "").split(".")[:-1]:
            plain = plain.get(part) or {}
        folder = plain.get("init_from")
        if folder:
            yield f"{key}={value}: init_from={folder} brings its own {found[2]}; leave one of the two out"
