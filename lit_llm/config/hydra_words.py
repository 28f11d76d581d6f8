"""The words of a command line as Hydra gets them: by the names of now, places and names quoted.

With resume=FOLDER they are also the words of that run, of which those given anew win: Hydra keeps them in the folder's
.hydra/overrides.yaml, and the run goes on there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lit_llm.config import hydra_node, interruption, renamed, yaml_files
from lit_llm.config.overrides import composed, composing, literal, parsed, quoted, text_of
from lit_llm.errors import UserError


def hydra_words(config_name: str, arguments: list[str]) -> list[str]:
    """``arguments`` (options as they are) as Hydra composes them. Raises UserError for what earlier versions took and
    nothing stands for now, and for a folder to resume that is none."""
    words = literal([one for word in arguments for one in renamed.word(config_name, word)[0]])
    return _resumed(words) if config_name == "train" else words


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
        one
        for word in overrides
        if not word.lstrip("+~").startswith(("hydra", "-", "allowed_targets", "resume="))
        and not hydra_node.touched_by(word)
        for one in renamed.word("train", word)[0]
    ]
    kept = _without_idle([word for word in ours if word.partition("=")[0].lstrip("~") not in given])
    for word in kept:
        if interruption.names_code(word):
            raise UserError(f"resume={place}: its saved {word} names code; if you trust it, give {word} again")
    where = [] if "hydra.run.dir" in given else [f"hydra.run.dir={quoted(place)}"]
    return [*kept, *arguments, *where]


def _without_idle(words: list[str]) -> list[str]:
    """The words less deletions of keys that are not there: earlier versions took what belonged to one option of a group
    away when another was chosen."""
    deleted = [word for word in words if word.startswith("~") and "." in word]
    if not deleted:
        return words
    with composing():
        findings: list[str] = []
        cfg = composed("train", list(parsed([word for word in words if word not in deleted], findings)), findings)
    idle = [word for word in deleted if cfg is not None and _missing(cfg, word[1:].partition("=")[0])]
    return [word for word in words if word not in idle]


def _missing(cfg: DictConfig, key: str) -> bool:
    place, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, place)
    return not isinstance(node, DictConfig) or name not in node
