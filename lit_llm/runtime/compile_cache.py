"""The compiler's files on disk: kept from run to run, and mended where a run was killed while they were written."""

from __future__ import annotations

import logging
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import IO

from lit_llm.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock; there nothing is looked through
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("lit_llm")

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_in_use: list[IO[bytes]] = []  # held until this process ends, whichever way


def keep_compiled(folder: Path) -> None:
    """Has torch's compiler keep its files in ``folder``, unless TORCHINDUCTOR_CACHE_DIR names another place.

    torch's own place, which it writes into that variable when Lightning imports it, is the system's temporary folder:
    what took half a minute to compile would go with it. Files that a kill cut off are removed: torch takes what is
    there for whole, and every later run would end in an ImportError. Raises UserError where nothing can be written.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    place = str(folder.resolve())
    if os.environ.get(VARIABLE, place) not in (place, default_cache_dir()):
        return
    os.environ[VARIABLE] = place
    if fcntl is None or _in_use:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _in_use.append((folder / "in_use").open("wb"))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); give another data.cache_dir=") from None
    with suppress(OSError):  # held by another run, whose compiler may be writing right now
        fcntl.flock(_in_use[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        _mend(folder)
    with suppress(OSError):
        fcntl.flock(_in_use[0], fcntl.LOCK_SH)


def _mend(folder: Path) -> None:
    damaged = [file for file in folder.rglob("*") if file.suffix in (".so", ".py") and _cut_off(file)]
    for file in damaged:
        file.unlink()
    if damaged:
        log.warning("%s: %d files that a kill cut off were removed; they are compiled again", folder, len(damaged))


def _cut_off(file: Path) -> bool:
    """Whether a file is empty, or a library (ELF, 64 bits) that ends before its section headers, which come last."""
    with file.open("rb") as opened:
        head = opened.read(64)
    if file.suffix == ".py":
        return not head
    if len(head) < 64 or not head.startswith(b"\x7fELF\x02\x01"):
        return len(head) < 64 or not head.strip(b"\0")
    (headers,), (size, count) = struct.unpack_from("<Q", head, 40), struct.unpack_from("<HH", head, 58)
    return bool(file.stat().st_size < headers + size * count)
