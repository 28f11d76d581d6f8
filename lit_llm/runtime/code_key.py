"""A hash of source code, as a part of the key of what that code made: results that are kept are of no other code."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lit_llm.runtime.source_files import archive, module_file


@cache
def code_key(*names: str) -> str:
    """SHA-256 of the sources of modules, of all modules in a package's folder, or of an installed package's version.

    Args:
        names: ``lit_llm.text`` (a package), ``lit_llm.data.filters`` (a module), ``tokenizers==`` (a version).
    """
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0".encode())
        if name.endswith("=="):
            digest.update(_version(name.removesuffix("==")).encode())
            continue
        for path in _sources(name):
            source = path.read_bytes()
            digest.update(f"{path.name}\0{len(source)}\0".encode())
            digest.update(source)
    return digest.hexdigest()


def _sources(module: str) -> list[Path]:
    """A module's file; of a package all in its folder; of one that is imported from a zip file, that."""
    path = module_file(module)
    if path is None:
        path = archive(module)
        return [] if path is None else [path]
    return sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
