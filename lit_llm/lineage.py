"""Where a model comes from: hashes that chain from the corpus to the folder, and their check, offline.

``lineage.json`` in a model folder (and in a folder of collected rankings) holds the SHA-256 of every file beside it, of
every data file that was read, of the folders it was made from, and the resolved configuration. Its ``digest`` covers
all of that, the parents' digests included, so that one byte changed anywhere shows at every model made from it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lit_llm.config import digest, flat
from lit_llm.errors import UserError

NAME = "lineage.json"
# Not among the hashed files: the card, written from the lineage, and the state of the run around the files.
BESIDE = (NAME, "README.md", "manifest.json", ".lock", "run.json", "metrics.json", "config.yaml")
PACKAGES = (
    "torch", "lightning", "torchmetrics", "tokenizers", "safetensors", "jinja2", "hydra-core", "omegaconf", "numpy",
)  # fmt: skip


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path, leave_out: Sequence[str] = BESIDE) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in leave_out)
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def record(
    folder: Path,
    *,
    stage: str,
    config: Mapping[str, Any],
    parents: Mapping[str, Path],
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    simulated: bool = False,
) -> dict[str, Any]:
    """Write ``lineage.json`` of a finished folder and return what it holds.

    Args:
        config: resolved, and without secrets (``config.plain``).
        parents: folders that went in, by the key that named them: ``{"init_from": Path}``.
        data: ``{"fingerprint": str, "counts": {...}, "files": [Path, ...]}``.
        simulated: whether its preferences come from simulated annotators; true also when a parent's do.
    """
    known = [_parent(folder, role, Path(place)) for role, place in parents.items()]
    lineage: dict[str, Any] = {
        "version": 1,
        "stage": stage,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "simulated_preferences": simulated or any(parent["simulated_preferences"] for parent in known),
        "files": hash_folder(folder),
        "parents": known,
        "data": {**data, "files": [_data_file(folder, Path(path)) for path in data.get("files", ())]},
        "tokenizer": dict(tokenizer),
        "config": dict(config),
        "code": commit(),
        "packages": versions(),
        "metrics": dict(metrics),
    }
    lineage["digest"] = _digest(lineage)
    (folder / NAME).write_text(json.dumps(lineage, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    return lineage


def read(folder: Path) -> dict[str, Any] | None:
    """The lineage of a folder; None for a folder from elsewhere."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        lineage: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return lineage
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); it was changed after it was written") from None


def verify(folder: Path) -> tuple[list[str], list[str]]:
    """Hash every byte along the chain again. Returns (folders verified, differences); no difference: all as made.

    Raises UserError when the folder has no lineage.
    """
    if read(folder) is None:
        raise UserError(f"{folder / NAME}: not there; only folders made by this program can be verified")
    visited: dict[Path, None] = {}
    differences = list(_verify(folder, folder.name, visited))
    return [str(place) for place in visited], differences


def commit() -> dict[str, Any]:
    """The commit of the source and whether it was changed since; empty outside a repository."""
    where = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        return {"commit": head, "changed": bool(git("status", "--porcelain", "--", "."))} if head else {}
    except (OSError, subprocess.TimeoutExpired):
        return {}


def versions() -> dict[str, str]:
    """The interpreter and the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def parents_in(config: Mapping[str, Any]) -> dict[str, Path]:
    """Folders with a lineage (and ``init_from`` in any case) that a configuration names, by their keys."""
    found = {}
    for key, value in flat(config):
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str) or not text or len(text) > 4096 or key == "resume":
                continue
            place = made_by(Path(text))
            if key == "init_from" or place is not None:
                found[key] = place or Path(text)
    return found


def made_by(path: Path) -> Path | None:
    """The folder with the lineage of what lies at ``path``: itself, or a folder or two above it."""
    return next((place for place in (path, *list(path.parents)[:2]) if (place / NAME).is_file()), None)


def _digest(lineage: Mapping[str, Any]) -> str:
    return digest({key: value for key, value in lineage.items() if key not in ("digest", "created")})


def _parent(folder: Path, role: str, place: Path) -> dict[str, Any]:
    known = read(place) or {}
    return {
        "role": role,
        "path": _relative(place, folder),
        "stage": known.get("stage"),
        "digest": known.get("digest"),
        "simulated_preferences": bool(known.get("simulated_preferences")),
        "files": known.get("files") or hash_folder(place),
    }


def _data_file(folder: Path, path: Path) -> dict[str, Any]:
    return {"path": _relative(path, folder), "bytes": path.stat().st_size, "sha256": hash_file(path)}


def _relative(path: Path, start: Path) -> str:
    try:
        return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()


def _verify(folder: Path, name: str, visited: dict[Path, None]) -> Iterator[str]:
    folder = folder.resolve()  # a pipeline's folder holds links: what is beside a folder is beside its real place
    if folder in visited:
        return
    visited[folder] = None
    lineage = read(folder)
    if lineage is None:
        return  # a model from elsewhere: its files were compared with the child's record of them
    if lineage.get("digest") != _digest(lineage):
        yield f"{name}/{NAME}: its digest is not that of its content: it was edited after it was written"
    yield from compare_files(name, lineage["files"], hash_folder(folder))
    yield from _verify_card(folder, name, lineage)
    yield from _verify_config(folder, name, lineage)
    for item in lineage["data"]["files"]:
        yield from _verify_data(folder, name, item)
    for parent in lineage["parents"]:
        yield from _verify_parent(folder, name, parent, visited)


def compare_files(name: str, recorded: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    """Differences between recorded and found hashes, one a file."""
    for file in sorted({*recorded, *found}):
        if file not in found:
            yield f"{name}/{file}: is gone"
        elif file not in recorded:
            yield f"{name}/{file}: was added"
        elif recorded[file] != found[file]:
            yield f"{name}/{file}: its bytes differ (sha256 {found[file][:12]}, recorded {recorded[file][:12]})"


def _verify_card(folder: Path, name: str, lineage: Mapping[str, Any]) -> Iterator[str]:
    from lit_llm.model_card import render

    card = folder / "README.md"
    if card.is_file() and card.read_text(encoding="utf-8") != render(lineage):
        yield f"{name}/README.md: is not the card that its lineage gives"


def _verify_config(folder: Path, name: str, lineage: Mapping[str, Any]) -> Iterator[str]:
    """The run's config.yaml against the lineage, field by field."""
    from omegaconf import OmegaConf

    from lit_llm.config import plain

    path = folder.parent / "config.yaml"
    if not path.is_file() or folder.name != "model":
        return
    recorded, found = dict(flat(lineage["config"])), dict(flat(plain(OmegaConf.load(path))))
    for key in sorted({*recorded, *found} - {"resume"}):
        if recorded.get(key) != found.get(key):
            yield f"{name}: config.yaml {key} is {found.get(key)!r}, recorded {recorded.get(key)!r}"


def _verify_data(folder: Path, name: str, item: Mapping[str, Any]) -> Iterator[str]:
    path = folder / item["path"]
    if not path.is_file():
        yield f"{name}: data file {item['path']} is gone"
    elif hash_file(path) != item["sha256"]:
        yield f"{name}: data file {item['path']} differs ({path.stat().st_size} bytes, recorded {item['bytes']})"


def _verify_parent(folder: Path, name: str, parent: Mapping[str, Any], visited: dict[Path, None]) -> Iterator[str]:
    place, label = (folder / parent["path"]).resolve(), f"{parent['stage'] or parent['role']}"
    if not place.is_dir():
        yield f"{name}: its parent {parent['role']} is gone ({parent['path']})"
        return
    now = read(place) or {}
    if now.get("digest") != parent["digest"]:
        old, new = {"files": parent["files"]}, {"files": now.get("files") or hash_folder(place)}
        changed = [key for key in {**old["files"], **new["files"]} if old["files"].get(key) != new["files"].get(key)]
        what = f"other bytes in {', '.join(sorted(changed))}" if changed else "the same files, made otherwise"
        yield f"{name}: its parent {parent['role']} is another one than it was made from: {what} ({parent['path']})"
    if not now:
        yield from compare_files(label, parent["files"], hash_folder(place))
    yield from _verify(place, label, visited)
