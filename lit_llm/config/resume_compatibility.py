"""Whether a configuration goes on with the run that a folder holds, or is another run, which must not mix with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lit_llm.config import renamed, schema, yaml_files
from lit_llm.errors import UserError
from lit_llm.runtime.run_folder import RunFolder

# What a resumed run cannot change: the folder and its checkpoints hold what was made of it. Steps, rates and the like
# may change; the data of a checkpoint is compared by its own fingerprint.
FIXED = ("init_from", "stage._target_", "tokenizer", "backbone")
FREE = ("backbone.dropout",)
# What a run writes over or takes for its own; a folder that has it and no run.json is the user's.
WRITTEN = ("config.yaml", "metrics.json", "model", "tokenizer", "heldout", "vocabulary.json")


def refuse_another(cfg: DictConfig, folder: RunFolder) -> None:
    """Raises UserError where ``folder`` holds a run that ``cfg`` neither repeats nor resumes."""
    elsewhere = "hydra.run.dir=FOLDER starts another"
    if not folder.state and not folder.has_checkpoint:
        theirs = next((name for name in WRITTEN if (folder.path / name).exists()), None)
        if theirs is not None and cfg.resume is None:
            raise UserError(f"{folder.path / theirs}: is no run's and would be written over; {elsewhere}")
        return
    if cfg.resume is not None:
        changed = change_from(schema.plain(cfg), folder)
        if changed is not None:
            raise UserError(changed)
    elif folder.has_checkpoint and not cfg.trainer.fast_dev_run:
        raise UserError(f"{folder.path}: holds a run already; resume={folder.path} goes on with it, {elsewhere}")
    elif folder.state.get("identity") != schema.identity(cfg):
        raise UserError(f"{folder.path}: holds a run of another configuration; {elsewhere}")


def change_from(values: Mapping[str, Any], folder: RunFolder) -> str | None:
    """The first value in a plain configuration that a run resumed in ``folder`` cannot have; None: it goes on."""
    if not folder.config.is_file():
        return None
    saved = renamed.values(schema.plain(yaml_files.load(folder.config)))
    before, now = dict(schema.flat(saved)), dict(schema.flat(values))
    fixed = FIXED if folder.has_checkpoint else (*FIXED, "data.path", "data.replay_path")
    for key in {**before, **now}:
        kept = any(key == name or key.startswith(f"{name}.") for name in fixed) and key not in FREE
        if kept and not _same(key, before.get(key), now.get(key)):
            return (
                f"{key}={now.get(key)}: the run in {folder.path} has {key}={before.get(key)}, which a resumed run "
                "keeps; leave it out, or start a new run in another folder"
            )
    return None


def _same(key: str, one: Any, two: Any) -> bool:
    if key == "init_from" and one and two:
        return Path(one).resolve() == Path(two).resolve()
    return bool(one == two)
