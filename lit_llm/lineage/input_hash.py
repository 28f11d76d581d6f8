"""What goes into a step besides its parents: the contents of data files, and its configuration without the places."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_llm.config.environment import real, real_text
from lit_llm.config.schema import digest, texts
from lit_llm.data.projects import is_project, place_of, rankings_hash
from lit_llm.data.stores import is_remote, of
from lit_llm.lineage.lineage import hash_file
from lit_llm.model_sources.adapters import base_files, base_of
from lit_llm.runtime.model_folder import is_adapter

# Keys that say where or how fast, not what: another value gives the same result.
WITHOUT_EFFECT = (
    "resume", "cache_dir", "paths", "progress", "num_workers", "prepare_workers", "launcher", "slurm"
)  # fmt: skip
PATH_KEYS = ("path", "replay_path", "ptx_path", "prompts", "decontaminate", "earlier_heldout")
# The last words of keys whose values are paths though no slash may show it.
PLACES = ("init_from", "path", "paths", "file", "files", "folder", "folders", "dir", "model", "prompts")


def without_names(config: Any) -> Any:
    """The configuration less the keys that cannot change the result."""
    if isinstance(config, Mapping):
        return {key: without_names(value) for key, value in config.items() if key not in WITHOUT_EFFECT}
    return [without_names(value) for value in config] if isinstance(config, list) else config


def files_of(data: Mapping[str, Any]) -> list[str]:
    """The files that a data configuration reads; a ranking project is one."""
    files = [file for _, files in splits_of(data) for file in files]
    return list(dict.fromkeys(place_of(file) if is_project(file) else file for file in files))


def splits_of(data: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """(key and split, files) of all that a data configuration reads itself; another step's output is a parent."""
    from lit_llm.data.sources import resolve

    for key in PATH_KEYS:
        for place in _places(data.get(key)):
            for split, files in resolve(place, data.get("cache_dir", "outputs/cache")).items():
                yield f"{key} {split}", list(files)


def _places(path: Any) -> list[Any]:
    """A path, the items of a list, the keys of {path: weight}, or {split: path} as it is; less what is ``@name``."""
    if isinstance(path, Mapping):
        if all(isinstance(weight, int | float) for weight in path.values()):
            return [place for place in path if not str(place).startswith("@")]
        splits = {split: found for split, place in path.items() if (found := _places(place))}
        return [splits] if splits else []
    if isinstance(path, list | tuple):
        kept = [found for item in path for found in _places(item)]
        return [kept] if kept else []
    told = real_text(str(path)) if "${oc.env:" in str(path) else path
    return [told] if path and not str(path).startswith("@") else []


def data_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of all data that a step reads, by the key that names it; the places themselves do not count.

    What else a value names on this disk counts too: a model's folder (``init_from``, a reward), a file, a template.
    """
    found = {}
    data = config.get("data", config)  # the rankings step reads its prompts itself
    prefix = "data." if "data" in config else ""
    if isinstance(data, Mapping):
        found["data"] = digest([_named_hashes(split, files) for split, files in splits_of(data)])
    own = tuple(f"{prefix}{key}" for key in PATH_KEYS)
    for key, text in texts(without_names(config)):
        if any(key == name or key.startswith(f"{name}.") for name in own):
            continue
        place = _existing(key, text)
        if place is not None:
            found[key] = digest([found.get(key), _place_hashes(place)])
    return found


def _named_hashes(split: str, files: list[str]) -> list[list[str]]:
    """[split, name, SHA-256] of files; names are relative to the folder of all, so that a moved folder is the same."""
    there = [Path(file) for file in files if Path(file).is_file() and not is_project(file)]
    base = os.path.commonpath([path.resolve().parent for path in there]) if there else ""
    known = [[split, path.resolve().relative_to(base).as_posix(), hash_file(path)] for path in there]
    known += [[split, "rankings", rankings_hash(file)[0]] for file in files if is_project(file)]
    others = [file for file in files if not is_project(file) and not Path(file).is_file()]
    return known + [[split, file, _tag(file)] for file in others]  # hub:<id>, a URL


def _tag(file: str) -> str:
    """What a store says of a file, which changes with its bytes; nothing of a data set of the hub."""
    return f"{of(file).size} {of(file).tag}" if is_remote(file) else ""


def _existing(key: str, text: str) -> Path | None:
    """The file or folder that a value names: by a slash or ``~`` in it, or by its key."""
    if not text or text.startswith("@") or len(text) > 4096 or "\0" in text or "\n" in text:
        return None
    if not ("/" in text or text.startswith("~") or key.split(".")[-1].split("_")[-1] in _LAST):
        return None
    try:
        place = real(Path(text).expanduser())
        return place if place.exists() else None
    except (OSError, RuntimeError):  # a name too long for a file, or nobody's home
        return None


_LAST = {name.split("_")[-1] for name in PLACES}


def _place_hashes(place: Path) -> list[list[str]]:
    if place.is_file():
        return [[place.suffix, rankings_hash(str(place))[0] if is_project(str(place)) else hash_file(place)]]
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.suffix in FILES)
    found = [[path.relative_to(place).as_posix(), hash_file(path)] for path in files]
    bases = base_files(base_of(place)) if is_adapter(place) else []
    return found + [[f"base {path.name}", hash_file(path)] for path in bases]


FILES = (".json", ".safetensors", ".jinja", ".jsonl", ".txt", ".parquet")
