"""The rankings step of a pipeline: answers of a model, ranked by (simulated) annotators, with their lineage."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from lit_llm import config as schema
from lit_llm import lineage
from lit_llm.checkpointing.resume import RunLock
from lit_llm.feedback.simulated import describe
from lit_llm.ingredients import files_of
from lit_llm.run_folder import write_json

log = logging.getLogger("lit_llm")


def collect(config: Mapping[str, Any], folder: Path, output: Path) -> dict[str, Any]:
    """Call what ``config`` names with ``output``; keep metrics.json, config.yaml and lineage.json in ``folder``."""
    started = time.monotonic()
    with RunLock(folder):
        schema.save(config, folder / "config.yaml")
        result = instantiate(OmegaConf.create(dict(config)), _convert_="all")(output=output)
        log.info("%s", describe(result))
        metrics = {"stage": "rankings", "seconds": time.monotonic() - started, "tokens": 0, "counts": dict(result)}
        write_json(folder / "metrics.json", metrics)
        lineage.record(
            folder,
            stage="rankings",
            config=config,
            parents=lineage.parents_in(config),
            data={"counts": dict(result), "files": files_of({"path": config.get("prompts"), **config})},
            metrics={"seconds": metrics["seconds"]},
            tokenizer={},
            simulated=bool(result.get("simulated")),
        )
    return metrics
