"""The words of a command that name its run's folder: in all processes of one run the same, and where a run goes on."""

from __future__ import annotations

import time
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from lit_llm.config import schema
from lit_llm.config.given_values import given_in
from lit_llm.config.overrides import composing, override_words, quoted, search_path
from lit_llm.config.pretrained_defaults import settled
from lit_llm.errors import UserError
from lit_llm.runtime.distributed import agreed
from lit_llm.runtime.run_folder import unfinished
from lit_llm.runtime.started_by import started, step_name


def only_shows(arguments: list[str]) -> bool:
    """Whether the words ask for a configuration alone."""
    return any(word.startswith(("--cfg", "-c", "--info")) for word in arguments)


def refuse_several(config_name: str, arguments: list[str]) -> None:
    """Raises UserError where torchrun or srun has started several processes of what starts its processes itself."""
    now = started()
    if now.by == "python" or only_shows(arguments):
        return
    several = "a sweep" if any(word in ("-m", "--multirun") for word in arguments) else None
    if several or config_name == "pipeline":
        raise UserError(
            f"{now.by} started {now.tasks} processes, and {several or 'a pipeline'} starts those of its runs itself: "
            "start it once, with python (trainer.devices=N, trainer.launcher=slurm)"
        )


def one_folder(config_name: str, arguments: list[str]) -> list[str]:
    """Where torchrun or srun has started several processes: the words that name one folder in all of them.

    Raises UserError where torchrun keeps no store to agree by.
    """
    now = started()
    if now.by == "python" or only_shows(arguments):
        return arguments
    if any(word.startswith("hydra.run.dir=") for word in arguments):
        return arguments
    cfg = _with_hydra_s(config_name, arguments)
    try:
        name = step_name() if now.by == "srun" else agreed(time.strftime("%Y-%m-%d_%H-%M-%S"), "folder")
    except KeyError:
        raise UserError("torchrun: give its processes one folder, hydra.run.dir=FOLDER") from None
    return [*arguments, f"hydra.run.dir={quoted(str(_runs(cfg) / name))}"]


def going_on(config_name: str, arguments: list[str]) -> list[str]:
    """resume=auto without a folder: the newest unfinished run of this very configuration, else a new run."""
    if "resume=auto" not in arguments or config_name != "train":
        return arguments
    if any(word.startswith(("hydra.run.dir=", "-m", "--multirun", "--cfg")) for word in arguments):
        return arguments
    cfg = _with_hydra_s(config_name, arguments)
    plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    plain = settled(plain, lambda: given_in(config_name, arguments))
    runs = _runs(cfg)
    found = unfinished(runs, schema.identity(plain))
    print(f"resume=auto: {f'going on with {found}' if found else f'no unfinished run of this configuration in {runs}'}")
    return [*arguments, f"hydra.run.dir={quoted(str(found))}"] if found else arguments


def _with_hydra_s(config_name: str, arguments: list[str]) -> DictConfig:
    """The configuration, with Hydra's own."""
    words, folders = override_words(arguments)
    with composing():
        return hydra.compose(config_name, [*search_path(words, folders), *words], return_hydra_config=True)


def _runs(cfg: DictConfig) -> Path:
    """The folder of the stage's runs."""
    return Path(cfg.paths.outputs) / str(cfg.hydra.runtime.choices.stage)
