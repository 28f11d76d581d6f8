"""The front door of the Hydra commands: every mistake is one clear line and exit status 2.

Hydra answers a wrong override with a traceback or a hint about ``+``; here the overrides are composed once before
Hydra runs, all that is wrong is collected, and the nearest right name is given.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import hydra.core.utils
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lit_llm.config import hydra_node, interruption, logger_extras, model_fit, renamed, schema
from lit_llm.config.conf_files import CONFIG
from lit_llm.config.environment import named_by_environment
from lit_llm.config.folder_words import going_on, one_folder, only_shows, refuse_several
from lit_llm.config.given_values import given_in
from lit_llm.config.help import options_first, text_for
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.overrides import (
    composed,
    composing,
    is_interval,
    override_words,
    parsed,
    search_path,
    text_of,
)
from lit_llm.config.paths import wrong_places
from lit_llm.config.pretrained_defaults import lines, settled
from lit_llm.config.slurm_keys import lacking
from lit_llm.config.validation import validate
from lit_llm.errors import UserError
from lit_llm.runtime import devices
from lit_llm.runtime.atomic_files import write_text
from lit_llm.runtime.distributed import is_first_process
from lit_llm.runtime.out_of_resources import one_line
from lit_llm.runtime.parent import end_with
from lit_llm.runtime.started_by import adopt
from lit_llm.runtime.started_by import started as started_by
from lit_llm.runtime.stopping import ends_without_waiting, terminated_as_interrupted
from lit_llm.runtime.terminal import broken, columns, quiet_without_reader, started


def command(config_name: str, job: Callable[[DictConfig], Any], argv: list[str] | None = None) -> None:
    """Run ``job(cfg)`` under Hydra on the command line's overrides; exits with 2 on a user's mistake."""
    with quiet_without_reader():
        _command(config_name, job, argv)


def small_command(
    help: str, run: Callable[[Sequence[str]], None], words: Sequence[str] | None = None, kept: str = ""
) -> None:
    """The main of a command that takes another one's words, without Hydra's job around it: ``--help`` prints ``help``,
    a user's mistake exits with 2, Ctrl+C with 130 and SIGTERM with 143, and both say how to go on.

    Args:
        kept: what a command that was stopped says of what it has done.
    """
    words = sys.argv[1:] if words is None else words
    if {"--help", "-h"} & set(words):
        print(broken(help, columns(sys.stdout)))
        return
    with quiet_without_reader():
        try:
            with terminated_as_interrupted():
                run(words)
        except UserError as error:
            complain(error)
            raise SystemExit(2) from None
        except (KeyboardInterrupt, SystemExit) as stop:
            code = stop.code if isinstance(stop, SystemExit) else 130
            if isinstance(code, int) and code in interruption.STOPPED:
                again = f"{kept}, go on with" if kept else "start again with"
                print(f"stopped; {again}: {interruption.command_of(*words)}", file=sys.stderr, flush=True)
                ends_without_waiting(code)
            raise SystemExit(code) from None


def _command(config_name: str, job: Callable[[DictConfig], Any], argv: list[str] | None) -> None:
    adopt()
    if (now := started_by()).by == "torchrun":  # it gives each process a session of its own
        end_with(os.getppid())
    if now.here > 1:  # before torch counts the cores; torchrun has told it
        of_each = os.environ.get("SLURM_CPUS_PER_TASK") or str(devices.threads(now.here))
        os.environ.setdefault("OMP_NUM_THREADS", of_each)
    schema.register()
    sys.path.append(str(Path.cwd()))  # modules of one's own: a reward, a format, a stage
    interruption.given[:] = list(sys.argv[1:] if argv is None else argv)
    begins = f"{config_name}: reading the configuration and loading torch ..."
    only_tells = bool({"--help", "-h", "--version", "--hydra-help"} & set(interruption.given))
    silent = only_tells or only_shows(interruption.given) or not is_first_process()
    # A terminal is told at once: checking a pipeline takes seconds by itself. A log, where a mistake is one line, then.
    if at_once := not silent and sys.stderr.isatty():
        started(begins)
    try:
        arguments = options_first(interruption.given)
        if any(word in ("--help", "-h") for word in arguments):
            print(broken(text_for(config_name, arguments), columns(sys.stdout)))
            raise SystemExit(0)
        for line in filter(None, (renamed.word(config_name, word)[1] for word in arguments)):
            print(f"note: {line}", file=sys.stderr)
        arguments = going_on(config_name, check(config_name, hydra_words(config_name, arguments)))
        refuse_several(config_name, arguments)
        if not (at_once or silent):
            started(begins)
        arguments = one_folder(config_name, arguments)  # with torch, where torchrun keeps a store
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
        interruption.clear_unused()
        raise SystemExit(2) from None
    except (HydraException, OmegaConfBaseException) as error:
        complain(_own(error) or UserError(str(error).splitlines()[0]))
        interruption.clear_unused()
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


def complain(error: UserError, alone: bool = False) -> None:
    """One line on stderr for every finding. Of several processes of a run that torchrun or srun started only the first
    one tells what all of them find. ``alone``: this process alone has found it."""
    if not is_first_process() and not alone:
        return
    for line in str(error).splitlines():
        print(broken(f"error: {line}", columns(sys.stderr)), file=sys.stderr)


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
        if several and cfg is not None and not findings:
            findings += list(_without_steps(config_name, words, folders))
        if cfg is not None and not findings:
            try:
                cfg = settled(cfg, lambda: given_in(config_name, arguments), _run_folder(words))
                for line in lines(schema.plain(cfg)) if only_shows(arguments) else ():  # Hydra shows its own values
                    print(f"# {line}", file=sys.stderr)
            except UserError as error:
                findings += str(error).splitlines()
        if cfg is not None and not only_shows(arguments):
            try:
                values = validate(cfg)
                findings += [] if several else list(not_there(values))
            except UserError as error:
                findings += str(error).splitlines()
    if findings:
        raise UserError("\n".join(dict.fromkeys(findings)))
    return arguments


def not_there(values: Mapping[str, Any]) -> Iterator[str]:
    """A line for every folder, file and device that a configuration's plain form names and that is not there."""
    yield from wrong_places(values)
    yield from devices.faults(values)
    yield from lacking(values)
    yield from logger_extras.faults(values)
    yield from model_fit.faults(values)


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


def _without_steps(config_name: str, words: list[str], folders: list[str]) -> Iterator[str]:
    """A line for every interval that no search draws from: a grid has no values in it."""
    if not (intervals := [word for word in words if is_interval(word)]):
        return
    overrides = list(parsed([*search_path(words, folders), *words], [], hydra_too=True))
    whole = composed(config_name, overrides, [], hydra_too=True)
    if whole is not None and str(whole.hydra.sweeper.get("_target_", "")).endswith(".BasicSweeper"):
        for word in intervals:
            yield f"{word}: has no steps that a grid could run; give hydra/sweeper=optuna, or range(FROM, TO, STEP)"


def compose(config_name: str, overrides: list[str]) -> DictConfig:
    """The configuration that the command line would give, for tests and for other commands."""
    schema.register()
    words = hydra_words(config_name, overrides)
    with composing():
        cfg = hydra.compose(config_name, words)
    return settled(cfg, lambda: given_in(config_name, words), _run_folder(words))


def _run_folder(words: list[str]) -> Path | None:
    found = [word.partition("=")[2] for word in words if word.startswith("hydra.run.dir=")]
    return Path(text_of(found[-1])) if found else None


BESIDE_A_FOLDER = {("backbone", ".dropout"), ("backbone", ".trust_remote_code")}


def _without_effect(cfg: DictConfig, words: list[str]) -> Iterator[str]:
    """A model's folder brings its backbone and tokenizer: what is said about them besides would be read by nobody."""
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        found = re.fullmatch(r"(stages\.[^.]+\.)?(backbone|tokenizer)(\..+)?", key.partition("@")[2] or key)
        if (
            found is None
            or (found[2], found[3]) in BESIDE_A_FOLDER
            or (found[2], value) == ("backbone", "transformers")
        ):
            continue
        plain: Any = OmegaConf.to_container(cfg, resolve=False)
        for part in (found[1] or "").split(".")[:-1]:
            plain = plain.get(part) or {}
        folder = plain.get("init_from")
        if folder:
            yield f"{key}={value}: init_from={folder} brings its own {found[2]}; leave one of the two out"
