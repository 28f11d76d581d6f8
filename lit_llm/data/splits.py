"""Which files of a folder are for training, for validation and for tests, by their names or their folders' names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lit_llm.data.compression import COMPRESSED
from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import nearest

UNDIVIDED = "all"
NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
}
_SAYS = re.compile(rf"({'|'.join(NAMES)})(?:_([a-z]\w*?))?(?:[-_.]\d.*)?")

_ARCHIVE = re.compile(r"\.(zip|tar(\.\w+)?|t(gz|bz2?|xz|zst))$", re.IGNORECASE)  # a folder too


def split_name(name: str) -> str:
    """The split that a key of {split: path} means; UserError for what means none."""
    lower = str(name).lower()
    if lower in NAMES:
        return NAMES[lower]
    if re.fullmatch(r"test[-.\w]*", lower):
        return lower
    found = nearest(lower, NAMES)
    hint = f"; did you mean {found}?" if found else ""
    raise UserError(f"data.path.{name}: no such split; train, validation, test or test_<name>{hint}")


def divided(files: Sequence[str], ignored: list[str], root: str | Path | None = None) -> dict[str, list[str]]:
    """Splits where the names tell both what to train on and what to hold out; otherwise all files together.

    Args:
        files: in order.
        ignored: files that stand beside splits and belong to none are added here.
        root: folders below it say a split too (``train/0000.jsonl``), and before the file's own name.
    """
    root = Path(root) if root is not None else Path(os.path.commonpath([Path(f).parent for f in files]))
    for with_folders in (True, False):
        homes = {file: _home(Path(file), root, with_folders=with_folders) for file in files}
        found = set(homes.values())
        if "train" in found and found - {"train", None}:
            ignored += [file for file, home in homes.items() if home is None]
            return {name: [f for f in files if homes[f] == name] for name in dict.fromkeys(homes.values()) if name}
    return {UNDIVIDED: list(files)}


def of_split(splits: dict[str, list[str]], name: str) -> list[str]:
    """What of a place's files is meant by {name: place}: its split of that name, or all where it has none."""
    if name in splits:
        return splits[name]
    if name == "test" and (tests := [f for split, files in splits.items() for f in files if split.startswith("test")]):
        return tests
    return splits.get("test" if name.startswith("test_") and "test" in splits else UNDIVIDED, [])


def _home(file: Path, root: Path, *, with_folders: bool) -> str | None:
    name = Path(file.stem) if file.suffix.lower() in COMPRESSED else Path(file.name)
    folders = file.parent.relative_to(root).parts if with_folders else ()
    for part in (*(_ARCHIVE.sub("", folder) for folder in folders), name.stem):
        if found := _SAYS.fullmatch(part.lower()):
            split = NAMES[found[1]]
            return f"{split}_{found[2]}" if split == "test" and found[2] else split
    return None
