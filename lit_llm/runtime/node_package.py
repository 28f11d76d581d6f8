"""Where the npm package node-llama-cpp is, which brings a build of llama.cpp of its own. Torch is not needed."""

from __future__ import annotations

import json
from pathlib import Path

PACKAGE = "node_modules/node-llama-cpp"


def node_package(given: Path | None) -> Path | None:
    """The folder of node-llama-cpp: the one given, or the one in its or this folder's ``node_modules``."""
    places = [Path(PACKAGE)] if given is None else [given, given / PACKAGE, given / "node-llama-cpp"]
    return next((place for place in places if (place / "dist" / "index.js").is_file()), None)


def node_version(package: Path) -> str:
    """Of node-llama-cpp in that folder."""
    try:
        return str(json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError):
        return "unknown"


def missing_in(given: Path) -> str | None:
    """What is wrong with a folder that is given for node-llama-cpp; None: it is there."""
    if node_package(given) is not None:
        return None
    if not given.is_dir():
        return "no such folder; give the one where npm install node-llama-cpp was run, or leave it out"
    return f"no node-llama-cpp in it; cd {given} and npm install node-llama-cpp, or leave it out"
