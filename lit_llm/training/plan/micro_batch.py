"""``data.micro_batch_size=auto``: the most rows of a forward pass that fit in memory and divide a step's rows."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lit_llm.errors import UserError
from lit_llm.runtime import devices
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.counted import counted
from lit_llm.training.plan import memory
from lit_llm.training.plan.run_data import RunData

log = logging.getLogger("lit_llm")

FILE = "micro_batch_size.json"  # in the run's folder: its other processes read it, and who goes on with it


def settled(cfg: DictConfig, folder: Path) -> DictConfig:
    """The configuration with a number in place of auto: found once a run, since other rows at once round otherwise."""
    if cfg.data.get("micro_batch_size") != "auto":
        return cfg
    file = folder / FILE
    if not file.is_file():
        write_json(file, {"rows": _most_rows(cfg, folder)})
    rows = int(json.loads(file.read_text(encoding="utf-8"))["rows"])
    log.info("data.micro_batch_size=auto: %s at once, %d a step", counted(rows, "row"), cfg.trainer.global_batch_size)
    return _with_rows(cfg, rows)


def _most_rows(cfg: DictConfig, folder: Path) -> int:
    processes = devices.shares(cfg.trainer)
    total = cfg.trainer.global_batch_size
    if total % processes:
        raise UserError(f"trainer.global_batch_size={total}: must be a multiple of the {processes} processes")
    step = total // processes
    data = RunData.read(_with_rows(cfg, step), folder)
    shape = memory.shape_of(cfg, data.vocabulary)
    on_cpu = shape.device == "cpu"
    process = memory.process_bytes() if on_cpu else 0.0
    room = memory.SPARE * memory.available(shape.device) / (devices.count(cfg.trainer) if on_cpu else 1)
    known = shape.activations(data.length)
    for rows in (each for each in range(step, 0, -1) if step % each == 0):
        held = memory.Pass(-(-data.rows * rows // step), data.length)
        if shape.memory(held, process, known).total <= room:
            return rows
    log.warning("not even one row at once is sure to fit in memory: scripts/plan.py says what would")
    return 1


def _with_rows(cfg: DictConfig, rows: int) -> DictConfig:
    changed = OmegaConf.merge(cfg, {"data": {"micro_batch_size": rows}})
    assert isinstance(changed, DictConfig)
    return changed
