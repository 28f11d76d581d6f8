"""A folder of an adapter, written here or by PEFT: whether it is one, and the folder of the model that it belongs to.

It holds ``adapter_config.json`` and ``adapter_model.safetensors``. One that was written here as a run's model has the
tokenizer and ``config.json`` (of the model that adapter and base make) too, and ``base_model.json``: where the base lay
from here, and the SHA-256 of its files. Torch is not needed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_llm.errors import UserError
from lit_llm.model_sources import hub
from lit_llm.model_sources.folders import folder_of, names_other_source, source_of
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.file_hashes import sha256_of
from lit_llm.runtime.model_folder import is_adapter, refuse_pointer

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base_model.json"
NAMED = "base_model_name_or_path"


def is_model(folder: str | Path) -> bool:
    """Whether this is the folder of a model, whole or as an adapter."""
    return (Path(folder) / "config.json").is_file() or is_adapter(folder)


def base_of(folder: str | Path) -> Path:
    """The folder of the model that the adapter in ``folder`` belongs to.

    Its ``base_model_name_or_path`` is looked for from the adapter's folder and from the working one; then where the
    base lay when the adapter was written here; then as a model of the hub. Raises UserError, one line, where it is
    nowhere, or an adapter itself.
    """
    found = _base(Path(folder), fetch=True)
    assert found is not None
    return found


def base_here(folder: str | Path) -> Path | None:
    """As ``base_of``, without asking the hub; None: the base is a model of the hub that its cache does not hold."""
    return _base(Path(folder), fetch=False)


def _base(folder: Path, fetch: bool) -> Path | None:
    file = folder / CONFIG
    settings = _object(file)
    name = settings.get(NAMED)
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise UserError(f"{file}: {NAMED}={name!r} should name the model that the adapter belongs to: write its folder")
    for place in _places(folder, name):
        if not _holds_model(place):
            continue
        if is_adapter(place):
            raise UserError(f"{file}: {NAMED}={name}: is an adapter itself ({place}); merge it into its base first")
        return place
    return _from_elsewhere(file, name, settings.get("revision"), fetch)


def _places(folder: Path, name: str) -> Iterator[Path]:
    given, recorded = _home(name), _recorded(folder)
    if not names_other_source(name):
        yield folder / given  # an absolute one is itself
        yield given
    elif (folder / given).is_file():
        yield folder_of(folder / given)
    if isinstance(path := recorded.get("path"), str):
        yield folder / path


def _holds_model(place: Path) -> bool:
    try:
        return is_model(place)
    except OSError:  # a name too long for a file
        return False


def _home(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # nobody's home
        return Path(name)


def _from_elsewhere(file: Path, name: str, revision: Any, fetch: bool) -> Path | None:
    """What is no folder here: a GGUF file, a package's, the hub's; PEFT writes the hub's names bare."""
    recorded = _recorded(file.parent).get("source")
    bare = re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None and not names_other_source(name)
    at = f"@{revision}" if isinstance(revision, str) and revision else ""
    known = name if names_other_source(name) else recorded if isinstance(recorded, str) else None
    asked = known or (f"{hub.PREFIX}{name}{at}" if bare else None)
    if asked is None:
        raise UserError(
            f"{file}: {NAMED}={name}: no model folder there, looked for from {file.parent} and the working folder; "
            "write the base model's folder, FILE.gguf or hub:OWNER/NAME in its place"
        )
    try:
        return folder_of(asked) if fetch or not asked.startswith(hub.PREFIX) else hub.in_cache(asked)
    except UserError as error:
        looked = f"no model folder there, looked for from {file.parent} and the working folder; and " if bare else ""
        raise UserError(
            f"{file}: {NAMED}={name}: {looked}{error}; or write the folder of the base model in its place"
        ) from None


def config_file(folder: str | Path) -> Path:
    """The config.json that tells a model's shape: a whole model's own, an adapter's where it has one, else its base's.
    Raises UserError as ``base_of``."""
    folder = Path(folder)
    own = folder / "config.json"
    return own if own.is_file() or not is_adapter(folder) else base_of(folder) / "config.json"


def scores(folder: Path) -> bool:
    """Whether an adapter brings the head of a reward model."""
    saved = _object(folder / CONFIG).get("modules_to_save")
    return isinstance(saved, list) and "score" in saved


# ---- the base's identity -------------------------------------------------------------------------------------------


def base_files(base: Path) -> list[Path]:
    """The files of a model folder that an adapter depends on."""
    weights = sorted(base.glob("model*.safetensors"))
    return [path for path in (base / "config.json", *weights) if path.is_file()]


def record_base(folder: Path, base: Path, quantization: str | None = None) -> None:
    """Write ``base_model.json``: where the base lies from here, where it came from, the SHA-256 of its files, and what
    its weights were quantised to while the adapter was trained beside them."""
    source = source_of(base)
    named = source.get("source")
    if named is not None and named.startswith(hub.PREFIX) and "@" not in named and source.get("revision"):
        named = f"{named}@{source['revision']}"
    path = Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
    found = {"path": path, "source": named, "files": {file.name: sha256_of(file) for file in base_files(base)}}
    found["quantization"] = quantization
    write_json(folder / BASE, {key: value for key, value in found.items() if value is not None}, indent=2)


def quantization_of(folder: Path) -> str | None:
    """What the base's weights were quantised to beside the adapter; None: they were whole. Raises UserError."""
    found = _recorded(folder).get("quantization")
    if found not in ("nf4", None):
        raise UserError(f"{folder / BASE}: quantization={found!r} should be nf4, or not there")
    return found


def check_base(folder: Path, base: Path) -> None:
    """Raise UserError where ``base`` is not the model that was recorded; of an adapter from elsewhere nothing is."""
    for name, wanted in dict(_recorded(folder).get("files") or {}).items():
        path = base / str(name)
        if not path.is_file():
            raise UserError(f"{path}: no such file, though {folder / BASE} records it; give the adapter its base again")
        if (found := sha256_of(path)) != wanted:
            raise UserError(
                f"{path}: is not of the base that the adapter in {folder} was trained on, its SHA-256 is {found[:12]} "
                f"and {BASE} recorded {str(wanted)[:12]}; give it that base again, or remove {folder / BASE} to take "
                "this one"
            )


def _recorded(folder: Path) -> dict[str, Any]:
    found = _object(folder / BASE) if (folder / BASE).is_file() else {}
    files = found.get("files", {})
    if not isinstance(files, dict):
        raise UserError(f"{folder / BASE}: files={files!r} should be an object of name to SHA-256; remove it")
    if other := [name for name in files if name in ("", ".", "..") or set(name) & set("/\\\0")]:
        raise UserError(f"{folder / BASE}: files={other[0]!r} should name a file in the base's folder; remove it")
    for key in ("path", "source"):
        if not isinstance(found.get(key, ""), str) or "\0" in found.get(key, ""):
            raise UserError(f"{folder / BASE}: {key}={found[key]!r} should be text, or not there")
    return found


def _object(file: Path) -> dict[str, Any]:
    refuse_pointer(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; an adapter folder has {CONFIG} and {WEIGHTS}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged, not readable as JSON ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: holds a {type(found).__name__}, should hold an object of settings")
    return found
