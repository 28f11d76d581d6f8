"""SHA-256 of files, remembered by what the system says of them, so that gigabytes are read once and not at every load.

A file is taken for the same while its device, inode, size and times (of its bytes and of its entry) are. Whoever needs
every byte read again (``lit-llm-verify``, checkpoints) does not come here.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from lit_llm.runtime.atomic_files import NotWritten, write_json

KEPT = Path("outputs/cache/hashes")  # below the working folder, where the project's other caches are
WORTH_KEEPING = 2**20  # bytes; less is hashed at once
_SETTLED = 2 * 10**9  # nanoseconds: a change within a clock's tick of another has the same time
_known: dict[str, tuple[list[int], str]] = {}


def sha256_of(path: Path) -> str:
    """In hexadecimal; from memory or ``outputs/cache/hashes`` where the file is the same as when it was hashed."""
    place = os.path.realpath(path)
    identity = identity_of(path)
    known = _known.get(place) or _read(place)
    if known is not None and known[0] == identity:
        return known[1]
    began = time.time_ns()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if identity_of(path) == identity and max(identity[3:]) < began - _SETTLED:
        _known[place] = identity, found
        _keep(place, identity, found)
    return found


def identity_of(path: Path) -> list[int]:
    """What changes when a file does: [device, inode, bytes, time of the bytes, time of the entry], in nanoseconds."""
    about = path.stat()
    return [about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def _file_of(place: str) -> Path:
    return KEPT / f"{hashlib.sha256(os.fsencode(place)).hexdigest()[:32]}.json"


def _read(place: str) -> tuple[list[int], str] | None:
    try:
        kept = json.loads(_file_of(place).read_text(encoding="utf-8"))
        return [int(number) for number in kept["identity"]], str(kept["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(place: str, identity: list[int], found: str) -> None:
    """Only where the project has its folder already: a command elsewhere leaves none behind."""
    if identity[2] < WORTH_KEEPING or not KEPT.parts or not Path(KEPT.parts[0]).is_dir():
        return
    with suppress(NotWritten, OSError):  # a cache that cannot be written is done without
        write_json(_file_of(place), {"identity": identity, "sha256": found})
