"""Where a model comes from: hashes that chain from the corpus to the folder, and their check, offline.

``lineage.json`` in a model folder (and in a folder of collected rankings) holds the SHA-256 of every file beside it, of
every data file that was read, of the folders it was made from, and the resolved configuration. Its ``digest`` covers
all of that, the parents' digests included, so that one byte changed anywhere shows at every model made from it. How
long it took and on which machine is not of what was made: only the ``seal``, over the whole file, covers these.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from lit_llm.config import digest, flat, texts
from lit_llm.errors import UserError

NAME = "lineage.json"
# Not among the hashed files: the card, written from the lineage, and the state of the run around the files.
BESIDE = (NAME, "README.md", "manifest.json", ".lock", "run.json", "metrics.json", "config.yaml")
PACKAGES = (
    "torch", "lightning", "torchmetrics", "tokenizers", "safetensors", "jinja2", "hydra-core", "omegaconf", "numpy",
)  # fmt: skip
# Metrics that tell of the making and not of what was made: the same run again has others.
TIMINGS = ("seconds", "train_seconds", "hardware")


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
    lineage = json.loads(_text(lineage))  # as it is read again
    lineage["digest"] = _digest(lineage)
    lineage["seal"] = _seal(lineage)
    (folder / NAME).write_text(_text(lineage), encoding="utf-8")
    return lineage


def read(folder: Path) -> dict[str, Any] | None:
    """The lineage of a folder; None for a folder from elsewhere."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        lineage = json.loads(path.read_bytes().decode())
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); it was changed after it was written") from None
    if not isinstance(lineage, dict):
        raise UserError(f"{path}: holds no object; it was changed after it was written")
    return lineage


def verify(folder: Path) -> tuple[list[str], list[str]]:
    """Hash every byte along the chain again. Returns (folders verified, differences); no difference: all as made.

    What is damaged so that it cannot be read is a difference too. Raises UserError when the folder has no lineage.
    """
    if not (folder / NAME).is_file():
        raise UserError(f"{folder / NAME}: not there; only folders made by this program can be verified")
    visited: dict[Path, None] = {}
    differences = list(_verify(folder, folder.name, visited))
    return [str(place) for place in visited], differences


def commit() -> dict[str, Any]:
    """The commit of the source and whether it was changed since, where it lies in a repository; its digest always."""
    where = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    code = {"digest": _code_digest(where)}
    try:
        # An environment inside somebody's repository: that repository's commit says nothing of this code.
        head = git("rev-parse", "HEAD") if git("ls-files", "--error-unmatch", Path(__file__).name) else ""
        return {"commit": head, "changed": bool(git("status", "--porcelain", "--", ".")), **code} if head else code
    except (OSError, subprocess.TimeoutExpired):
        return code


def _code_digest(package: Path) -> str:
    return digest({path.relative_to(package).as_posix(): hash_file(path) for path in package.rglob("*.py")})


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
    found: dict[str, Path] = {}
    for key, text in texts(config):
        if not text or len(text) > 4096 or "\0" in text or key == "resume":
            continue
        place = made_by(Path(text).expanduser()) if _exists(text) else None
        if (key == "init_from" or place is not None) and place not in found.values():
            known = sum(1 for name in found if name.split("[")[0] == key)
            found[f"{key}[{known}]" if known else key] = place or Path(text).expanduser()
    return found


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError):  # a name too long for a file, or nobody's home
        return False


def made_by(path: Path) -> Path | None:
    """The folder with the lineage of what lies at ``path``: itself, or a folder or two above it."""
    return next((place for place in (path, *list(path.parents)[:2]) if (place / NAME).is_file()), None)


def _digest(lineage: Mapping[str, Any]) -> str:
    """Of what was made and from what."""
    kept = {key: value for key, value in lineage.items() if key not in ("digest", "seal", "created")}
    metrics = {key: value for key, value in lineage["metrics"].items() if key not in TIMINGS}
    return digest({**kept, "metrics": metrics})


def _seal(lineage: Mapping[str, Any]) -> str:
    """Of everything in the file."""
    return digest({key: value for key, value in lineage.items() if key != "seal"})


def _text(lineage: Mapping[str, Any]) -> str:
    return json.dumps(lineage, indent=1, ensure_ascii=False, default=str) + "\n"


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
    try:
        lineage = read(folder)
    except UserError as error:
        yield f"{name}/{NAME}: {error}"
        return
    if lineage is None:
        return  # a model from elsewhere: its files were compared with the child's record of them
    known: dict[str, Any] = lineage
    recorded = f"{name}/{NAME}"
    yield from _guarded(recorded, lambda: _verify_itself(folder, name, known))
    yield from _guarded(recorded, lambda: compare_files(name, known["files"], hash_folder(folder)))
    yield from _guarded(f"{name}/README.md", lambda: _verify_card(folder, name, known))
    yield from _guarded(f"{name}: config.yaml", lambda: _verify_config(folder, name, known))
    yield from _guarded(recorded, lambda: _verify_all_data(folder, name, known))
    yield from _guarded(recorded, lambda: _verify_parents(folder, name, known, visited))


def _guarded(file: str, check: Callable[[], Iterator[str]]) -> Iterator[str]:
    """The differences of a check; damage that it cannot read past is one more, and the walk goes on."""
    try:
        yield from check()
    except Exception as error:  # a flipped bit can break any of the formats in any way
        yield f"{file}: damaged, cannot be followed ({type(error).__name__}: {' '.join(str(error).split())})"


def _verify_itself(folder: Path, name: str, lineage: Mapping[str, Any]) -> Iterator[str]:
    same = (folder / NAME).read_bytes() == _text(lineage).encode()
    if not same or lineage["digest"] != _digest(lineage) or lineage["seal"] != _seal(lineage):
        yield f"{name}/{NAME}: its digest is not that of its content: it was edited after it was written"


def _verify_all_data(folder: Path, name: str, lineage: Mapping[str, Any]) -> Iterator[str]:
    for item in lineage["data"]["files"]:
        yield from _verify_data(folder, name, item)


def _verify_parents(folder: Path, name: str, lineage: Mapping[str, Any], visited: dict[Path, None]) -> Iterator[str]:
    for parent in lineage["parents"]:
        yield from _guarded(f"{name}/{NAME}", partial(_verify_parent, folder, name, parent, visited))


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
    if card.is_file() and card.read_bytes() != render(lineage).encode():
        yield f"{name}/README.md: is not the card that its lineage gives"


def _verify_config(folder: Path, name: str, lineage: Mapping[str, Any]) -> Iterator[str]:
    """The run's config.yaml against the lineage, field by field."""
    from omegaconf import OmegaConf

    from lit_llm.config import plain, written

    path = (folder.parent if folder.name == "model" else folder) / "config.yaml"
    if not path.is_file():
        return
    loaded = OmegaConf.load(path)
    recorded, found = dict(flat(lineage["config"])), dict(flat(plain(loaded)))
    for key in sorted({*recorded, *found} - {"resume"}):
        if recorded.get(key) != found.get(key):
            yield f"{name}: config.yaml {key} is {found.get(key)!r}, recorded {recorded.get(key)!r}"
    if path.read_bytes() != written(loaded).encode():
        yield f"{name}: config.yaml is not written as it was: it was edited"


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
    try:
        now = read(place) or {}
    except UserError:  # told where its own lineage is verified
        yield from _verify(place, label, visited)
        return
    if now.get("digest") != parent["digest"]:
        old, new = {"files": parent["files"]}, {"files": now.get("files") or hash_folder(place)}
        changed = [key for key in {**old["files"], **new["files"]} if old["files"].get(key) != new["files"].get(key)]
        what = f"other bytes in {', '.join(sorted(changed))}" if changed else "the same files, made otherwise"
        yield f"{name}: its parent {parent['role']} is another one than it was made from: {what} ({parent['path']})"
    if not now:
        yield from compare_files(label, parent["files"], hash_folder(place))
    yield from _verify(place, label, visited)
