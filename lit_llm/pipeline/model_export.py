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

from lit_llm.config.export_keys import FOLDER
from lit_llm.config.schema import digest
from lit_llm.export.certificate import can_be_measured
from lit_llm.export.command import Export, export_gguf, whole
from lit_llm.export.engines import SCRIPT
from lit_llm.lineage.code_hash import hashes_of
from lit_llm.lineage.lineage import hash_folder
from lit_llm.model_sources.gguf_header import Quantization
from lit_llm.pipeline.cache import StageCache, show
from lit_llm.report.exported import FILE, exported, in_ledger
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.file_hashes import sha256_of
from lit_llm.runtime.node_package import node_package, node_version
from lit_llm.runtime.out_of_resources import one_line

log = logging.getLogger("lit_llm")

CODE = "lit_llm.export.command"
LONGEST = 300  # characters of an error that is not this project's own


def export_model(config: Mapping[str, Any], folder: Path, name: str, run: Path) -> Path | None:
    """Writes or reuses the export of the model that the run ``name`` in ``run`` made. Shown as
    ``folder``/export. Returns its folder; None where none is asked for, or it cannot be made: export.json says why.

    An export costs no chain its report: whatever goes wrong is one line of export.json, ledger and report.
    """
    _forget_the_one_before(folder)
    asked = config["export"]
    if asked["to"] is None:
        return None
    told: dict[str, Any] = {"model": name, "quantization": asked["quantization"]}
    place = None
    try:
        cache, texts = StageCache(config["cache_dir"]), _texts(folder, run)
        place = _made(cache, name, run, texts, asked["quantization"], asked["node_llama_cpp"])
        told |= exported(place)
        show(folder / FOLDER, place)
    except Exception as error:  # also of gguf, of node, of what a subprocess answered
        place, told = None, {**told, "error": _in_one_line(error)}
        log.warning("export of %s: %s", name, told["error"])
        log.debug("where it failed:", exc_info=True)
    write_json(folder / FILE, told)
    in_ledger(folder)
    return place


def _forget_the_one_before(folder: Path) -> None:
    """An earlier run in the same folder exported another model."""
    (folder / FILE).unlink(missing_ok=True)
    if (folder / FOLDER).is_symlink():
        (folder / FOLDER).unlink()
    in_ledger(folder)


def _texts(folder: Path, run: Path) -> Path | None:
    """Held-out sets that a loss can be taken on: the run's own, else those of another step (RL holds out prompts)."""
    for place in (run, *sorted(folder.iterdir())):
        heldout = place / "heldout"
        if heldout.is_dir() and can_be_measured(heldout):
            return heldout.resolve()
    return None


def _made(
    cache: StageCache, name: str, run: Path, texts: Path | None, quantization: Quantization, given: str | None
) -> Path:
    """The finished folder in the cache. ``given``: where node-llama-cpp is. Raises UserError as ``export_gguf``."""
    node = None if given is None else Path(given).expanduser()
    inputs = _inputs(run, texts, quantization, node)
    place = cache.folder(FOLDER, digest(inputs))
    if cache.finished(place):
        try:
            cache.check(place)
            exported(place)
        except Exception as error:
            place = cache.folder(FOLDER, digest(inputs), anew=True)
            log.warning("export of %s: made anew: %s", name, _in_one_line(error))
        else:
            log.info("export: unchanged, reused from %s", place)
            return place
    log.info("export of %s", name)
    place.mkdir(parents=True, exist_ok=True)
    model = (run / "model").resolve()
    with whole(model, place) as merged:
        asked = Export(model, quantization=quantization, node_llama_cpp=node, texts=texts)
        export_gguf(asked, merged, name, place, model)
    cache.finish(place, inputs)
    return place


def _in_one_line(error: Exception) -> str:
    known = one_line(error, "export it by itself: scripts/export.py")
    if known is not None:
        return str(known)
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]


def _inputs(run: Path, texts: Path | None, quantization: str, node: Path | None) -> dict[str, Any]:
    """All that the file and its certificate depend on."""
    found = node_package(node)
    return {
        "model": hash_folder(run / "model"),
        "heldout": {} if texts is None else hash_folder(texts),
        "quantization": quantization,
        "code": {**hashes_of([CODE]), SCRIPT.name: sha256_of(SCRIPT)},
        "engines": {"llama.cpp": None if found is None else node_version(found), **_versions()},
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in ("gguf", "transformers", "tokenizers", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
