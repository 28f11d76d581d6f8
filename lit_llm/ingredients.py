"""What goes into a step besides its parents: the contents of data files, and its configuration without the places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_llm.config import digest, flat
from lit_llm.lineage import hash_file

# Keys that say where or how fast, not what: another value gives the same result.
WITHOUT_EFFECT = ("resume", "cache_dir", "progress", "num_workers")
PATH_KEYS = ("path", "replay_path", "prompts")


def without_names(config: Any) -> Any:
    """The configuration less the keys that cannot change the result."""
    if isinstance(config, Mapping):
        return {key: without_names(value) for key, value in config.items() if key not in WITHOUT_EFFECT}
    return [without_names(value) for value in config] if isinstance(config, list) else config


def files_of(data: Mapping[str, Any]) -> list[str]:
    """The files that a data configuration reads."""
    from lit_llm.data.sources import resolve

    found: list[str] = []
    for key in PATH_KEYS:
        path = data.get(key)
        if path and not str(path).startswith("@"):  # another step's output counts as a parent
            for place in _places(path):
                found += [
                    file for files in resolve(place, data.get("cache_dir", "outputs/cache")).values() for file in files
                ]
    return list(dict.fromkeys(found))


def _places(path: Any) -> list[Any]:
    """A path, the keys of {path: weight}, or {split: path} as it is."""
    if isinstance(path, Mapping) and all(isinstance(weight, int | float) for weight in path.values()):
        return list(path)
    return [path]


def data_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of all data that a step reads, by the key that names it; the places themselves do not count.

    A folder of the user's own (``init_from`` or a reward) counts with all its files.
    """
    found = {}
    data = config.get("data", config)  # the rankings step reads its prompts itself
    if isinstance(data, Mapping):
        found["data"] = digest([hash_file(Path(file)) if Path(file).is_file() else file for file in files_of(data)])
    for key, value in flat(without_names(config)):
        if (
            isinstance(value, str)
            and not value.startswith("@")
            and "/" in value
            and not key.startswith("data.")
            and Path(value).is_dir()
        ):
            files = sorted(path for path in Path(value).rglob("*") if path.is_file() and path.suffix in FILES)
            found[key] = digest([[path.name, hash_file(path)] for path in files])
    return found


FILES = (".json", ".safetensors", ".jinja", ".jsonl", ".txt", ".parquet")
