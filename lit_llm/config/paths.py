"""Folders and files that a configuration names, looked at before torch is imported: every wrong one by its key."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_llm.config.environment import real_text
from lit_llm.config.pipeline_steps import runs
from lit_llm.data.projects import is_file_of_project, is_project, place_of
from lit_llm.data.stores import is_remote
from lit_llm.errors import UserError
from lit_llm.model_sources.adapters import WEIGHTS as WEIGHTS_OF_ADAPTER
from lit_llm.model_sources.adapters import base_here
from lit_llm.model_sources.folders import names_other_source
from lit_llm.runtime.model_folder import is_adapter, only_pickled, without_tokenizer
from lit_llm.runtime.node_package import missing_in
from lit_llm.runtime.suggestions import nearest

DATA = ("path", "replay_path", "ptx_path", "decontaminate", "earlier_heldout")
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def wrong_places(values: Mapping[str, Any]) -> Iterator[str]:
    """A line for every place of a plain configuration, of a run or a pipeline, that is not there or holds another
    thing. What another step makes (``@name``) is looked at when it is there."""
    for prefix, run in runs(values, skipped=False):
        yield from _of_run(prefix, run)
    if "stages" not in values:
        return
    if values["init_from"] is not None:
        yield from _model("init_from", values["init_from"])
    for key in ("annotation", "best_of_n"):
        yield from _parts(key, values[key])
    node = values["export"]["node_llama_cpp"]
    if node is not None and (wrong := missing_in(_here(node))) is not None:
        yield f"export.node_llama_cpp={node}: {wrong}"


def _of_run(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    if values["init_from"] is not None:
        yield from _model(f"{prefix}init_from", values["init_from"])
    else:
        yield from _tokenizer(f"{prefix}tokenizer.folder", values["tokenizer"])
    data = values["data"] if isinstance(values["data"], Mapping) else {}
    for key in DATA:
        yield from _data(f"{prefix}data.{key}", data.get(key))
    yield from _parts(f"{prefix}stage", values["stage"])
    yield from _parts(f"{prefix}evaluation.scorers", values["evaluation"]["scorers"])


def _parts(key: str, value: Any) -> Iterator[str]:
    """The models that rewards and other parts read, by the names of their keys."""
    if isinstance(value, list):
        for item in value:
            yield from _parts(key, item)
    if not isinstance(value, Mapping):
        return
    for name, item in value.items():
        if name in ("folder", "model") and isinstance(item, str) and "_target_" in value:
            yield from _model(f"{key}.{name}", item)
        elif name == "folders" and isinstance(item, list):
            for folder in item:
                yield from _model(f"{key}.folders", folder)
        elif name == "reference_logps" and isinstance(item, str) and not _later(item):
            if not _here(item).is_file():
                yield f"{key}.{name}={item}: no such file{_near(_here(item))}"
        elif name == "tokenizer" and "_target_" in value:
            yield from _tokenizer(f"{key}.{name}", {"folder": item})
        elif name == "prompts" and "_target_" in value:
            yield from _data(f"{key}.{name}", item)
        else:
            yield from _parts(f"{key}.{name}", item)


def _model(key: str, text: Any) -> Iterator[str]:
    """A model folder: config.json, tokenizer.json and weights. A model by another name was read, or told, before."""
    if not isinstance(text, str) or _later(text) or names_other_source(real_text(text)):
        return
    place = _here(text)
    if not _is_dir(place):
        yield f"{key}={text}: {_no_folder(text, place)}"
    elif is_adapter(place):
        yield from _adapter(key, text, place)
    elif not (place / "config.json").is_file():
        yield f"{key}={text}: {_no_model(place)}"
    elif not (place / "tokenizer.json").is_file():
        yield f"{key}={text}: {without_tokenizer(place)}"
    elif not any(next(place.glob(pattern), None) for pattern in WEIGHTS):
        pickled = only_pickled(place)
        yield f"{key}={text}: {pickled or 'no weights here (*.safetensors); give a whole model folder'}"


def _adapter(key: str, text: str, place: Path) -> Iterator[str]:
    """An adapter with its base, and a tokenizer in one of the two. A base of the hub's is fetched by the run."""
    try:
        base = base_here(place)
    except UserError as error:
        yield f"{key}={text}: {error}"
        return
    if not (place / WEIGHTS_OF_ADAPTER).is_file():
        yield f"{key}={text}: an adapter without weights (no {WEIGHTS_OF_ADAPTER}); give a whole one"
    elif base is not None and not any((one / "tokenizer.json").is_file() for one in (place, base)):
        yield f"{key}={text}: no tokenizer.json here, nor with its base {base}; copy one into either"


def _no_folder(text: str, place: Path) -> str:
    if _exists(place):
        return "a file; give the model's folder"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return f"no such folder; a model of the Hugging Face hub is named hub:{text}{_near(place)}"
    return f"no such folder; give a model's folder{_near(place)}"


def _no_model(place: Path) -> str:
    if (place / "model/config.json").is_file():
        return f"a run's folder; give the model in it, {place / 'model'}"
    if next(place.glob("*.gguf"), None) is not None:
        return f"a folder with a GGUF file; give the file: {next(place.glob('*.gguf'))}"
    return "no model folder (it has no config.json)"


def _tokenizer(key: str, node: Any) -> Iterator[str]:
    text = node.get("folder") if isinstance(node, Mapping) else None
    if not isinstance(text, str) or _later(text) or names_other_source(real_text(text)):
        return
    place = _here(text)
    if not _is_dir(place):
        yield f"{key}={text}: {'a file' if _exists(place) else 'no such folder'}; give a folder with tokenizer.json" + (
            "" if _exists(place) else _near(place)
        )
    elif not (place / "tokenizer.json").is_file():
        yield f"{key}={text}: {without_tokenizer(place)}"


def _data(key: str, value: Any) -> Iterator[str]:
    """A file, folder or glob; a list of them; {path: weight}; {split: path}."""
    if isinstance(value, Mapping):
        weighted = all(isinstance(item, int | float) for item in value.values())
        for name, item in value.items():
            yield from _data(key if weighted else f"{key}.{name}", name if weighted else item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _data(key, item)
    elif isinstance(value, str | int) and not isinstance(value, bool) and not _later(str(value)):
        text = str(value)
        real = real_text(text).strip()
        if is_project(real):
            missing = is_file_of_project(real) and not _exists(_here(place_of(real)))
        else:
            missing = not _there(real)
        if missing:
            yield f"{key}={text}: no such file or folder{_near(_here(real))}"


def _there(text: str) -> bool:
    """What is not on this disk, or will be made, is left to who reads it."""
    if not text or text.startswith(("hub:", "installed/")) or text == "installed" or is_remote(text):
        return True
    place = str(_here(text))
    return _exists(Path(place)) or (glob.has_magic(text) and bool(glob.glob(place, recursive=True)))  # noqa: PTH207


def _later(text: str) -> bool:
    return text.startswith("@")


def _here(text: str) -> Path:
    try:
        return Path(real_text(text)).expanduser()
    except RuntimeError:  # nobody's home
        return Path(text)


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _is_dir(place: Path) -> bool:
    return _exists(place) and place.is_dir()


def _near(place: Path) -> str:
    try:
        names = [one.name for one in place.parent.iterdir()] if place.parent.is_dir() else []
    except (OSError, ValueError):
        return ""
    found = nearest(place.name, names)
    return f"; did you mean {place.parent / found}?" if found else ""
