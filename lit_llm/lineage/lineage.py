"""Where a model comes from: hashes that chain from the corpus to the folder (verification.py checks them, offline).

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
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import lit_llm
from lit_llm.config.environment import real, real_text
from lit_llm.config.schema import digest, texts
from lit_llm.data.projects import is_file_of_project, is_project, rankings_hash, shown
from lit_llm.errors import UserError
from lit_llm.model_sources.adapters import base_of
from lit_llm.model_sources.folders import source_of
from lit_llm.runtime.atomic_files import write_text
from lit_llm.runtime.model_folder import is_adapter

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
    people: bool = False,
) -> dict[str, Any]:
    """Write ``lineage.json`` of a finished folder and return what it holds.

    Args:
        config: resolved, and without secrets (``config.plain``).
        parents: folders that went in, by the key that named them: ``{"init_from": Path}``.
        data: ``{"fingerprint": str, "counts": {...}, "files": [Path, ...]}``; a ranking project's URL is a text.
        simulated: whether its preferences come from simulated annotators; true also when a parent's do.
        people: whether people ranked; true also when a parent's rankings are people's.
    """
    known = [_parent(folder, role, Path(place)) for role, place in parents.items()]
    bases = [base for place in parents.values() for base in base_models(real(Path(place)))]
    lineage: dict[str, Any] = {
        "version": 2,
        "stage": stage,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "simulated_preferences": simulated or any(parent["simulated_preferences"] for parent in known),
        "people_preferences": people or any(parent["people_preferences"] for parent in known),
        "files": hash_folder(folder),
        "parents": known,
        "base_models": [base for number, base in enumerate(bases) if base not in bases[:number]],
        "data": {**data, "files": [_data_file(folder, str(path)) for path in data.get("files", ())]},
        "tokenizer": dict(tokenizer),
        "config": dict(config),
        "code": commit(),
        "packages": versions(),
        "metrics": dict(metrics),
    }
    lineage = json.loads(text_of(lineage))  # as it is read again
    lineage["digest"] = content_digest(lineage)
    lineage["seal"] = seal(lineage)
    write_text(folder / NAME, text_of(lineage))
    return lineage


def forget(folder: Path) -> None:
    """Remove the lineage of a folder that is about to be written again: it is of the files before."""
    (folder / NAME).unlink(missing_ok=True)


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


def commit() -> dict[str, Any]:
    """The commit of the source and whether it was changed since, where it lies in a repository; its digest always."""
    source = Path(lit_llm.__file__)
    where = source.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=where, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    code = {"digest": _code_digest(where)}
    try:
        # An environment inside somebody's repository: that repository's commit says nothing of this code.
        head = git("rev-parse", "HEAD") if git("ls-files", "--error-unmatch", source.name) else ""
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
        return real(Path(text).expanduser()).exists()
    except (OSError, RuntimeError):  # a name too long for a file, or nobody's home
        return False


def made_by(path: Path) -> Path | None:
    """The folder with the lineage of what lies at ``path``: itself, or a folder or two above it."""
    return next((place for place in (path, *list(path.parents)[:2]) if (real(place) / NAME).is_file()), None)


def content_digest(lineage: Mapping[str, Any]) -> str:
    """Of what was made and from what."""
    kept = {key: value for key, value in lineage.items() if key not in ("digest", "seal", "created")}
    metrics = {key: value for key, value in lineage["metrics"].items() if key not in TIMINGS}
    return digest({**kept, "metrics": metrics})


def seal(lineage: Mapping[str, Any]) -> str:
    """Of everything in the file."""
    return digest({key: value for key, value in lineage.items() if key != "seal"})


def text_of(lineage: Mapping[str, Any]) -> str:
    return json.dumps(lineage, indent=1, ensure_ascii=False, default=str) + "\n"


def _parent(folder: Path, role: str, place: Path) -> dict[str, Any]:
    known = read(real(place)) or {}
    return {
        "role": role,
        "path": _relative(place, folder),
        "stage": known.get("stage"),
        "digest": known.get("digest"),
        "simulated_preferences": bool(known.get("simulated_preferences")),
        "people_preferences": bool(known.get("people_preferences")),
        "files": known.get("files") or hash_folder(real(place)),
    }


def base_models(place: Path) -> list[dict[str, str]]:
    """The models from elsewhere that a folder goes back to: name, licence, that the data are unknown, and where known
    the source that was named with its SHA-256 or the hub's revision."""
    known = read(place)
    if known is not None:
        return list(known.get("base_models") or ())
    if is_adapter(place):
        return base_models(base_of(place))
    source = source_of(place)
    if not (place / "config.json").is_file():  # rankings, a corpus
        return []
    config, card = _settings(place / "config.json"), _front_matter(place / "README.md")
    named = config.get("_name_or_path")
    named = named if isinstance(named, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", named) else None
    licence = card.get("license_name") if card.get("license") == "other" else card.get("license")
    licence = licence or card.get("license") or config.get("license")
    licence = ", ".join(map(str, licence)) if isinstance(licence, list) else licence
    name = source.pop("name", None) or named or place.resolve().name
    licence = source.pop("license", None) or licence or "unknown"
    found = {key: _plain(value) for key, value in source.items()}
    return [{"name": _plain(name), "license": _plain(licence), "data": "unknown", **found}]


def _settings(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _front_matter(file: Path) -> dict[str, Any]:
    """What a hub's card says of itself before its text, as YAML between two lines of dashes."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff")
        found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
        value = yaml.safe_load(found[1]) if found else {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> str:
    """A stranger's word in one short line without marks of its own."""
    return " ".join(re.sub(r"[^\w.,:/+() -]", "", str(value).replace("\n", " ")).split())[:100] or "unknown"


def _data_file(folder: Path, file: str) -> dict[str, Any]:
    """A file by its bytes, a ranking project by its rankings: its file changes with every log-in."""
    digest_, size = data_hash(real_text(file))
    place = _relative(Path(file), folder) if is_file_of_project(file) or not is_project(file) else shown(file)
    return {"path": place, "bytes": size, "sha256": digest_}


def data_hash(file: str) -> tuple[str, int]:
    """(SHA-256, bytes) of a data file, or of a ranking project's rankings as canonical JSON."""
    if is_project(file):
        return rankings_hash(file)
    return hash_file(Path(file)), Path(file).stat().st_size


def _relative(path: Path, start: Path) -> str:
    """From ``start``; a place that the environment tells stays as the configuration says it."""
    if real(path) != path:
        return path.as_posix()
    try:
        return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_posix()


def place_in(folder: Path, text: str) -> Path:
    """Where a recorded path lies now."""
    told = real(Path(text))
    return told if told != Path(text) else folder / text
