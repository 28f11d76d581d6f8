"""Files that are hashed as they are written, so that no second pass over gigabytes is needed, and checked when read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, Any

from lit_llm.runtime.distributed import is_first_process
from lit_llm.runtime.progress_bars import Bar

MANIFEST = "manifest.json"  # in a checkpoint's folder
LARGE = 2**31  # bytes: a few seconds of hashing, which a bar shows
_CHUNK = 2**23


class HashedFile:
    """A file for writing that counts and hashes what goes through it. Writes come one after the other: no seeking."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    @property
    def entry(self) -> dict[str, Any]:
        """What a manifest says of the file: ``{"bytes": int, "sha256": str}``."""
        return {"bytes": self.size, "sha256": self.sha256.hexdigest()}

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.sha256.update(view)
        self.size += view.nbytes
        self.file.write(view)
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        """For ``os.fsync``: what Python still holds is handed over first."""
        self.file.flush()
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()


def change_of(path: Path, size: int, sha256: str) -> str | None:
    """How a file differs from what a manifest says of it, in words; None if every byte is as it was written."""
    if path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes instead of {size}"
    found, silent = hashlib.sha256(), size < LARGE or not is_first_process()
    with (
        path.open("rb", buffering=0) as file,
        Bar(total=size, desc=f"verify {path.name}", unit="B", unit_scale=True, leave=False, disable=silent) as bar,
    ):
        while read := file.read(_CHUNK):
            found.update(read)
            bar.update(len(read))
    return None if found.hexdigest() == sha256 else "is damaged (its SHA-256 differs from the manifest's)"
