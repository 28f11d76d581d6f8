"""The check of a lineage, offline: every byte from a model back to its corpus is hashed again (lit-llm-verify)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lit_llm.config.environment import real_text
from lit_llm.config.schema import flat
from lit_llm.data.projects import is_file_of_project, is_project
from lit_llm.errors import UserError
from lit_llm.lineage.lineage import NAME, content_digest, data_hash, hash_folder, place_in, read, seal, text_of
from lit_llm.runtime.arguments import run_command


@dataclass
class Verify:
    """Compares the files of a model, of all it was made from, and their data with what their lineages recorded."""

    model: Path


def main() -> None:
    """The command line."""
    run_command(Verify, run)


def run(arguments: Verify) -> None:
    """Prints what was hashed and what differs. Raises SystemExit: 1 when anything does."""
    folders, differences = verify(arguments.model)
    for folder in folders:
        print(f"hashed {folder}")
    for difference in differences:
        print(f"differs: {difference}")
    print(f"{len(differences)} differences" if differences else "every byte is as recorded")
    raise SystemExit(1 if differences else 0)


def verify(folder: Path) -> tuple[list[str], list[str]]:
    """Hash every byte along the chain again. Returns (folders verified, differences); no difference: all as made.

    What is damaged so that it cannot be read is a difference too. Raises UserError when the folder has no lineage.
    """
    if not (folder / NAME).is_file():
        raise UserError(f"{folder / NAME}: not there; only folders made by this program can be verified")
    visited: dict[Path, None] = {}
    differences = list(_verify(folder, folder.name, visited))
    return [str(place) for place in visited], differences


def _verify(folder: Path, name: str, visited: dict[Path, None]) -> Iterator[str]:
    folder = folder.resolve()  # a pipeline's folder holds links: what is beside a folder is beside its real place
    if folder in visited:
        return
    visited[folder] = None
    try:
        lineage = read(folder)
    except UserError as error:
        yield f"{name}/{NAME}: {error}"
        return
    if lineage is None:
        return  # a model from elsewhere: its files were compared with the child's record of them
    known: dict[str, Any] = lineage
    recorded = f"{name}/{NAME}"
    yield from _guarded(recorded, lambda: _verify_itself(folder, name, known))
    yield from _guarded(recorded, lambda: compare_files(name, known["files"], hash_folder(folder)))
    yield from _guarded(f"{name}/README.md", lambda: _verify_card(folder, name, known))
    yield from _guarded(f"{name}: config.yaml", lambda: _verify_config(folder, name, known))
    yield from _guarded(recorded, lambda: _verify_all_data(folder, name, known))
    yield from _guarded(recorded, lambda: _verify_parents(folder, name, known, visited))


def _guarded(file: str, check: Callable[[], Iterator[str]]) -> Iterator[str]:
    """The differences of a check; damage that it cannot read past is one more, and the walk goes on."""
    try:
        yield from check()
    except Exception as error:  # a flipped bit can break any of the formats in any way
        yield f"{file}: damaged, cannot be followed ({type(error).__name__}: {' '.join(str(error).split())})"


def _verify_itself(folder: Path, name: str, lineage: Mapping[str, Any]) -> Iterator[str]:
    same = (folder / NAME).read_bytes() == text_of(lineage).encode()
    if not same or lineage["digest"] != content_digest(lineage) or lineage["seal"] != seal(lineage):
        yield f"{name}/{NAME}: its digest is not that of its content: it was edited after it was written"


def _verify_all_data(folder: Path, name: str, lineage: Mapping[str, Any]) -> Iterator[str]:
    for item in lineage["data"]["files"]:
        yield from _verify_data(folder, name, item)


def _verify_parents(folder: Path, name: str, lineage: Mapping[str, Any], visited: dict[Path, None]) -> Iterator[str]:
    for parent in lineage["parents"]:
        yield from _guarded(f"{name}/{NAME}", partial(_verify_parent, folder, name, parent, visited))


def compare_files(name: str, recorded: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    """Differences between recorded and found hashes, one a file."""
    for file in sorted({*recorded, *found}):
        if file not in found:
            yield f"{name}/{file}: is gone"
        elif file not in recorded:
            yield f"{name}/{file}: was added"
        elif recorded[file] != found[file]:
            yield f"{name}/{file}: its bytes differ (sha256 {found[file][:12]}, recorded {recorded[file][:12]})"


def _verify_card(folder: Path, name: str, lineage: Mapping[str, Any]) -> Iterator[str]:
    from lit_llm.lineage.model_card import render

    card = folder / "README.md"
    if card.is_file() and card.read_bytes() != render(lineage).encode():
        yield f"{name}/README.md: is not the card that its lineage gives"


def _verify_config(folder: Path, name: str, lineage: Mapping[str, Any]) -> Iterator[str]:
    """The run's config.yaml against the lineage, field by field."""
    from omegaconf import OmegaConf

    from lit_llm.config.schema import plain, written

    path = (folder.parent if folder.name == "model" else folder) / "config.yaml"
    if not path.is_file():
        return
    loaded = OmegaConf.load(path)
    recorded, found = dict(flat(lineage["config"])), dict(flat(plain(loaded)))
    for key in sorted({*recorded, *found} - {"resume"}):
        if recorded.get(key) != found.get(key):
            yield f"{name}: config.yaml {key} is {found.get(key)!r}, recorded {recorded.get(key)!r}"
    if path.read_bytes() != written(loaded).encode():
        yield f"{name}: config.yaml is not written as it was: it was edited"


def _verify_data(folder: Path, name: str, item: Mapping[str, Any]) -> Iterator[str]:
    place = real_text(item["path"])
    if not is_project(place) or is_file_of_project(place):
        place = str(place_in(folder, item["path"]))
        if not Path(place).is_file():
            yield f"{name}: data file {item['path']} is gone"
            return
    found, size = data_hash(place)
    if found != item["sha256"]:
        yield f"{name}: data file {item['path']} differs ({size} bytes, recorded {item['bytes']})"


def _verify_parent(folder: Path, name: str, parent: Mapping[str, Any], visited: dict[Path, None]) -> Iterator[str]:
    place, label = place_in(folder, parent["path"]).resolve(), f"{parent['stage'] or parent['role']}"
    if not place.is_dir():
        yield f"{name}: its parent {parent['role']} is gone ({parent['path']})"
        return
    try:
        now = read(place) or {}
    except UserError:  # told where its own lineage is verified
        yield from _verify(place, label, visited)
        return
    if now.get("digest") != parent["digest"]:
        old, new = {"files": parent["files"]}, {"files": now.get("files") or hash_folder(place)}
        changed = [key for key in {**old["files"], **new["files"]} if old["files"].get(key) != new["files"].get(key)]
        what = f"other bytes in {', '.join(sorted(changed))}" if changed else "the same files, made otherwise"
        yield f"{name}: its parent {parent['role']} is another one than it was made from: {what} ({parent['path']})"
    if not now:
        yield from compare_files(label, parent["files"], hash_folder(place))
    yield from _verify(place, label, visited)
