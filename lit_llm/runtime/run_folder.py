"""The folder of one run: what lies where in it, who is using it, and whether it is finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_llm.runtime.atomic_files import write_json

TASKS = "tasks.json"  # scores on tasks of lm-evaluation-harness, which a finished run may gain


class RunFolder:
    """``model/ checkpoints/ heldout/ metrics.json data.json config.yaml``, TensorBoard's ``events.out.tfevents.*``, and
    ``run.json``, the run's state."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.model = self.path / "model"
        self.checkpoints = self.path / "checkpoints"
        self.heldout = self.path / "heldout"
        self.metrics = self.path / "metrics.json"
        self.data = self.path / "data.json"
        self.config = self.path / "config.yaml"
        self.state_file = self.path / "run.json"

    @property
    def state(self) -> dict[str, Any]:
        """``{"identity": sha256 of the configuration, "status": running | finished}``; empty before the first run."""
        try:
            state: dict[str, Any] = json.loads(self.state_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state

    def mark(self, status: str, identity: str) -> None:
        write_json(self.state_file, {"status": status, "identity": identity})

    @property
    def has_checkpoint(self) -> bool:
        return any(self.checkpoints.glob("*.ckpt"))

    def kept(self) -> str:
        """What a run that could not go on has, and how it does."""
        newest = max(self.checkpoints.glob("step-*.ckpt"), default=None)
        if newest is None:
            return "no checkpoint was written yet"
        return f"{newest} is kept, resume={self.path} goes on from it"

    @property
    def best_checkpoint(self) -> Path | None:
        """``best.ckpt`` where a run keeps one (callbacks.checkpoints.monitor), else the newest."""
        best = self.checkpoints / "best.ckpt"
        return best if best.exists() else max(self.checkpoints.glob("step-*.ckpt"), default=None)


def unfinished(parent: Path, identity: str) -> Path | None:
    """The newest unfinished run of this very configuration among the runs in ``parent``, for ``resume=auto``."""
    found = [
        path.parent
        for path in parent.glob("*/run.json")
        if RunFolder(path.parent).state == {"status": "running", "identity": identity}
    ]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
