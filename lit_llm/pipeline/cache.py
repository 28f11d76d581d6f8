"""Finished stages of pipelines, kept under the hash of what went in and verified byte by byte when used again.

A stage runs inside its folder ``<stage>-<key>``; the manifest, written last, says that it is finished. A folder without
one is an interrupted run, which goes on where it stopped. A stage that is computed once more gets the folder
``<stage>-<key>.2``, then ``.3``: models and reports made from the older one still find it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_llm.config.schema import digest, flat
from lit_llm.errors import UserError
from lit_llm.lineage.lineage import hash_folder
from lit_llm.lineage.verification import compare_files
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.run_folder import TASKS

MANIFEST = "manifest.json"
# Files that a finished stage may gain or change without being another one.
LEFT_OUT = (MANIFEST, ".lock", TASKS)
OUTPUTS = ("model", "adapter", "collected")


class StageCache:
    """The folders of finished stages below ``root``."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def folder(self, stage: str, key: str, anew: bool = False) -> Path:
        """The finished folder computed last, else the one to compute in. ``anew``: never a finished one."""
        known = self._numbered(stage, key)
        finished = [number for number, path in known.items() if self.finished(path)]
        if finished and not anew:
            return known[max(finished)]
        last = max(known, default=1)
        number = last if last not in finished else last + 1
        return self.root / (f"{stage}-{key[:16]}" + (f".{number}" if number > 1 else ""))

    def _numbered(self, stage: str, key: str) -> dict[int, Path]:
        first = f"{stage}-{key[:16]}"
        found = {int(path.suffix[1:]): path for path in self.root.glob(f"{first}.*") if path.suffix[1:].isdecimal()}
        return ({1: self.root / first} if (self.root / first).is_dir() else {}) | found

    def finished(self, folder: Path) -> bool:
        return (folder / MANIFEST).is_file()

    def finish(self, folder: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Hash what the stage made, and say that it is finished."""
        manifest = {"inputs": dict(inputs), "files": _files(folder)}
        write_json(folder / MANIFEST, manifest)
        return manifest

    def check(self, folder: Path) -> dict[str, Any]:
        """The manifest of a finished stage whose every byte is as it was made. Raises UserError naming what drifted."""
        try:
            manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            drifted = list(compare_files(str(folder), manifest["files"], _files(folder)))
        except (ValueError, KeyError) as error:
            raise UserError(f"{folder / MANIFEST}: damaged ({error}); {_remedy(folder)}") from None
        if drifted:
            more = f" (and {len(drifted) - 1} more)" if len(drifted) > 1 else ""
            raise UserError(f"{drifted[0]}{more}: the cached stage was changed since it was made; {_remedy(folder)}")
        return manifest

    def newest(self, stage: str) -> Path | None:
        """The stage finished last, whatever went into it."""
        found = [path for path in self.root.glob(f"{stage}-*") if self.finished(path)]
        return max(found, key=lambda path: (path / MANIFEST).stat().st_mtime, default=None)

    def changed(self, folder: Path, inputs: Mapping[str, Any]) -> list[str]:
        """What of the inputs differs from a finished stage's, by name: optimizer.lr, code lit_llm.stages.ppo."""
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        before = manifest.get("inputs") or manifest.get("ingredients", {})  # as it was called
        names = []
        for part, value in inputs.items():
            old, new = dict(flat(before.get(part) or {})), dict(flat(value))
            names += [f"{part} {key}" for key in {**old, **new} if old.get(key) != new.get(key)]
        return names

    def output_hash(self, folder: Path) -> str:
        """What the next stages' keys hold of this one: the weights, tokenizer and data it made (not its logs)."""
        if not self.finished(folder):  # a model folder of the user's own
            return digest(hash_folder(folder))
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        kept = {name: sha for name, sha in files.items() if _is_output(name)}
        return digest(kept)


def show(link: Path, place: Path) -> None:
    """A link from the pipeline's folder to the step's, relative so that outputs/ can be moved."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(place.resolve(), link.parent.resolve()), target_is_directory=True)


def _files(folder: Path) -> dict[str, str]:
    return {name: sha for name, sha in hash_folder(folder, LEFT_OUT).items() if not name.startswith(".hydra/")}


def _is_output(name: str) -> bool:
    """What other steps read: the model (its lineage and card hold the time of making) or the collected rankings."""
    top = name.split("/")[0]
    return top in OUTPUTS and not name.endswith(("lineage.json", "README.md"))


def _remedy(folder: Path) -> str:
    return f"delete {folder} to compute it again"
