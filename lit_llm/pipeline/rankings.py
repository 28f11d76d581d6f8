"""The rankings step of a pipeline: answers of a model, ranked by simulated annotators or people, with lineage."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_llm.config import schema
from lit_llm.config.environment import real_text
from lit_llm.config.targets import construct
from lit_llm.data.projects import shown
from lit_llm.feedback.people import describe as describe_people
from lit_llm.feedback.people import fingerprint
from lit_llm.feedback.simulated import describe
from lit_llm.lineage import lineage
from lit_llm.lineage.input_hash import files_of
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.run_lock import RunLock

log = logging.getLogger("lit_llm")


def collect(config: Mapping[str, Any], folder: Path, output: Path, allowed: Sequence[str] = ()) -> dict[str, Any]:
    """Call what ``config`` names with ``output``; keep metrics.json, config.yaml and lineage.json in ``folder``."""
    started = time.monotonic()
    with RunLock(folder):
        schema.save(config, folder / "config.yaml")
        result = construct(dict(config), "annotation", allowed)(output=output)
        people = result.get("by_people", 0) > 0
        log.info("%s", describe_people(result) if "by_people" in result else describe(result))
        metrics = {"stage": "rankings", "seconds": time.monotonic() - started, "tokens": 0, "counts": dict(result)}
        write_json(folder / "metrics.json", metrics)
        lineage.record(
            folder,
            stage="rankings",
            config=config,
            parents=lineage.parents_in(config),
            data={"counts": dict(result), **_origin(config)},
            metrics={"seconds": metrics["seconds"]},
            tokenizer={},
            simulated=bool(result.get("simulated")),
            people=people,
        )
    return metrics


def _origin(config: Mapping[str, Any]) -> dict[str, Any]:
    """The files that were read; of a ranking project, which goes on changing, the hash of what was taken from it."""
    path = str(config.get("path") or "")
    known = fingerprint(real_text(path)) if path else None
    if known is not None:
        return {"fingerprint": known, "project": shown(path), "files": []}
    return {"files": files_of({"path": config.get("prompts"), **config})}
