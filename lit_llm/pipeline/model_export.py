"""The export at a pipeline's end: its last model as a GGUF file with a certificate, kept in the cache as stages are.

``export`` of the pipeline's configuration asks for it. ``export/`` in the pipeline's folder holds what
``scripts/export.py`` writes, export.json what the report and the ledger say of it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import lit_llm
from lit_llm.config.export_keys import FOLDER
from lit_llm.config.schema import digest
from lit_llm.errors import UserError
from lit_llm.export.command import Export, export_gguf, whole
from lit_llm.export.engines import node_package, node_version
from lit_llm.lineage.lineage import hash_folder
from lit_llm.pipeline.cache import StageCache, show
from lit_llm.report.exported import FILE, exported, in_ledger
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.file_hashes import sha256_of

log = logging.getLogger("lit_llm")

CODE = ("export", "model_sources")


def export_model(config: Mapping[str, Any], folder: Path, name: str, run: Path) -> Path | None:
    """Writes or reuses the export of the model that the run ``name`` in ``run`` made. Shown as
    ``folder``/export. Returns its folder; None where none is asked for, or it cannot be made: export.json says why."""
    asked = config["export"]
    if asked["to"] is None:
        return None
    cache = StageCache(config["cache_dir"])
    node = None if asked["node_llama_cpp"] is None else Path(asked["node_llama_cpp"]).expanduser()
    inputs = _inputs(run, asked["quantization"], node)
    place = cache.folder(FOLDER, digest(inputs))
    told: dict[str, Any] = {"model": name, "quantization": asked["quantization"]}
    if cache.finished(place):
        cache.check(place)
        log.info("export: unchanged, reused from %s", place)
    else:
        log.info("export of %s", name)
        place.mkdir(parents=True, exist_ok=True)
        model = (run / "model").resolve()
        try:
            with whole(model, place) as merged:
                said = Export(model, quantization=asked["quantization"], node_llama_cpp=node)
                export_gguf(said, merged, name, place, model)
        except UserError as error:  # the chain is done: its report is not lost to an export
            log.warning("export of %s: %s", name, error)
            write_json(folder / FILE, {**told, "error": str(error)})
            return None
        cache.finish(place, inputs)
    write_json(folder / FILE, {**told, **exported(place)})
    in_ledger(folder)
    show(folder / FOLDER, place)
    return place


def _inputs(run: Path, quantization: str, node: Path | None) -> dict[str, Any]:
    """All that the file and its certificate depend on."""
    heldout = run / "heldout"
    package = Path(lit_llm.__file__).parent
    files = sorted(file for room in CODE for file in (package / room).iterdir() if file.suffix in (".py", ".mjs"))
    found = node_package(node)
    return {
        "model": hash_folder(run / "model"),
        "heldout": hash_folder(heldout) if heldout.is_dir() else {},
        "quantization": quantization,
        "code": {f"{file.parent.name}/{file.name}": sha256_of(file) for file in files},
        "engines": {"llama.cpp": None if found is None else node_version(found), **_versions()},
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in ("gguf", "transformers", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
