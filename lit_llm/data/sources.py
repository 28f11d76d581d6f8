"""From what the user names (file, folder, glob, list, hub id, documentation, ranking project) to files by split."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lit_llm.data import stores
from lit_llm.data.archives import ARCHIVES, is_archive, members
from lit_llm.data.arrow_files import ARROW, of_saved
from lit_llm.data.compression import COMPRESSED
from lit_llm.data.documents.needs import KINDS as DOCUMENTS
from lit_llm.data.file_rows import (
    ENDLESS,
    FOREIGN,
    FORMATS,
    PART_OF_PAGE,
    TEXTS,
    by_content,
    extension,
    known_extension,
)
from lit_llm.data.projects import is_project, resolve_project
from lit_llm.data.row_errors import RowError
from lit_llm.data.splits import UNDIVIDED, divided, of_split, split_name
from lit_llm.data.token_files import token_files
from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import nearest

TELLS = "tells of data"
"""Why a README and the like are not read."""
CACHE = "a cache of datasets"
NO_LOSS = (TELLS, CACHE, PART_OF_PAGE)
"""Why files are not read that hold no data."""
NO_SPLIT = "names no split"
UNKNOWN = "an unknown kind"
_HIDDEN = (".", "__", "~$")  # the last: of a document that Office has open, who has it
_OF_WINDOWS = ("thumbs.db", "desktop.ini")
_NO_DATA = re.compile(
    r"(readme|licen[cs]e|copying|notice|authors|changelog|changes|contributing|code_of_conduct|citation|security|"
    r"dataset_?card)([-_. ].*)?|(requirements)",
    re.IGNORECASE,
)
_NO_DATA_JSON = re.compile(
    r"dataset_infos?|dataset_dict|state|(.*[-_.])?croissant|datapackage|metadata|manifest|collection|stats|config|"
    r"metrics|lineage|package(-lock)?",
    re.IGNORECASE,
)


def resolve(
    path: str | int | Sequence[str | int] | Mapping[str, Any],
    cache_dir: str | Path = "outputs/cache",
    ignored: list[str] | None = None,
) -> dict[str, list[str]]:
    """The files of each split.

    Args:
        path: a file, a folder (read to its depths), a glob, ``installed/<part>`` for the documentation on this disk,
            ``hub:<id>`` for a data set of the Hugging Face hub, the URL of a file, folder or glob in an object store
            (``stores.py``), files of tokens (``token_files.py``), a ranking project (``FILE.db`` or an SQLAlchemy URL:
            its submitted rankings, with the splits stored in it), a list of these, or {split: one of these}.
        cache_dir: where the installed documentation is kept.
        ignored: files that are there and not read (an unknown extension, no split beside splits) are added here.

    Returns:
        {split: files}, with the names ``train``, ``validation``, ``test`` and ``test_<name>``; or {"all": files} where
        names of files and folders do not tell both what is for training and what is held out. Files are sorted, so
        that the order is the same everywhere.

    Raises:
        UserError: nothing is there, no file has a known extension, or a key of a mapping is no split's name.
    """
    ignored = [] if ignored is None else ignored
    if isinstance(path, Mapping):
        meant = {key: split_name(key) for key in path}
        return {name: _of_split(path[key], name, f"data.path.{key}", cache_dir, ignored) for key, name in meant.items()}
    if not isinstance(path, str | int | Path):  # a folder named 2024 is read as a number
        parts = [resolve(p, cache_dir, ignored) for p in path]
        if not parts:
            raise UserError("data.path=[]: the list is empty; give a file, a folder or a glob")
        names = list(dict.fromkeys(chain.from_iterable(parts)))
        merged = {name: [f for part in parts for f in part.get(name, [])] for name in names}
        if UNDIVIDED in merged and len(merged) > 1:  # what says nothing about its split is for training
            merged["train"] = [*merged.get("train", []), *merged.pop(UNDIVIDED)]
        return {name: list(dict.fromkeys(files)) for name, files in merged.items()}
    text = str(path).strip()
    if not text:
        raise UserError("data.path is empty; give a file, a folder, a glob, hub:<id> or installed/raw_text")
    if text.startswith("hub:"):
        return {UNDIVIDED: [text]}
    stores.use(cache_dir)
    if (tokens := token_files(text)) is not None:
        return {UNDIVIDED: tokens}
    if stores.is_remote(text):
        return _in_store(text, ignored)
    if is_project(text):
        return resolve_project(text)
    if text.split("/")[0] == "installed" and not Path(text).exists():
        from lit_llm.data import word_count
        from lit_llm.data.installed_docs import corpus

        part = text.partition("/")[2]
        files = word_count.part_files(cache_dir) if part == "word_count" else corpus.part_files(part, cache_dir)
        return divided(files, ignored)
    return _local(text, ignored)


def _of_split(path: Any, name: str, key: str, cache_dir: str | Path, ignored: list[str]) -> list[str]:
    """The files of {name: path}: of a place that has splits, that split alone."""
    places: list[str] = [str(path)] if isinstance(path, str | Path) else list(path)
    files: list[str] = []
    for place_ in places:
        splits = resolve(place_, cache_dir, ignored)
        if not (found := of_split(splits, name)):
            raise UserError(f"{key}={place_}: it has the splits {', '.join(splits)}, none of them for {name}")
        files += found
    if not files:
        raise UserError(f"{key}: no files")
    return list(dict.fromkeys(files))


def _local(text: str, ignored: list[str]) -> dict[str, list[str]]:
    path, root = Path(text).expanduser(), None
    if path.is_file() and is_archive(str(path)):
        found, what, root = [str(path)], f"archive {text}", path.parent
    elif path.is_file():
        known_extension(str(path))
        return {UNDIVIDED: [str(path)]}
    elif path.is_dir():
        found = sorted(str(p) for p in _below(path) if not _hidden(p.relative_to(path)))
        what, root = f"folder {text}", path
    else:
        _check_link(path)
        found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  (absolute patterns, which Path.glob refuses)
        what = f"glob {text}"
        if not found and not glob.has_magic(text):
            raise UserError(f"{text}: no such file or folder{_near(path)}")
    for each in found:
        if extension(each) in FORMATS:
            _check_link(Path(each))
    files = [one for f in found if Path(f).is_file() for one in _inside(f)]
    if not files:
        raise UserError(f"{what}: no files in it; put {', '.join(FORMATS)} files there")
    saved, caches = of_saved(files)
    return _chosen([f for f in files if f not in saved], what, ignored, root, caches)


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder and in those below it, which may be links; a link to a folder around it is not followed.

    Raises UserError for a folder that cannot be listed: what is in it would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror}); make it readable, or leave it out")

    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        here = Path(place)
        folders[:] = [name for name in folders if not _hidden(Path(name)) and not _leads_back(here / name)]
        yield from (here / name for name in files)


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one of those that it was reached through."""
    return folder.is_symlink() and folder.resolve() in {parent.resolve() for parent in folder.parents}


def _in_store(url: str, ignored: list[str]) -> dict[str, list[str]]:
    """The files at a URL. Archives are not read there: they are no folders of the store."""
    found = stores.files_at(url)
    if found == [url]:
        if known_extension(url) in ARCHIVES:
            raise UserError(f"{url}: an archive; unpack it in the store, or download it and give the file")
        return {UNDIVIDED: [url]}
    root = None if glob.has_magic(url) else Path(url)
    base = Path(os.path.commonpath([Path(f).parent for f in found])) if root is None else root
    files = [f for f in found if not _hidden(Path(f).relative_to(base))]
    if not files:
        raise UserError(f"{url}: no files in it; put {', '.join(FORMATS)} files there")
    archives = [f for f in files if extension(f) in ARCHIVES]
    return _chosen(files, f"store {url}", ignored, root, archives)


def _chosen(
    files: Sequence[str], what: str, ignored: list[str], root: Path | None, caches: Collection[str]
) -> dict[str, list[str]]:
    """Those of a place's files that are read, by split. ``caches``: files of known formats that are not."""
    known = [f for f in files if extension(f) in FORMATS and f not in caches]
    about = [f for f in known if is_about_data(f)]
    if len(about) < len(files):  # alone, their contents decide
        known = [f for f in known if f not in set(about)]
    if not known:
        others = [f for f in files if f not in set(about)]
        suffixes = ", ".join(sorted({Path(f).suffix or Path(f).name for f in others})[:8])
        told = next((f"; {extension(f)} is {FOREIGN[extension(f)]}" for f in others if extension(f) in FOREIGN), "")
        told = told or (f"; {ENDLESS}" if any(not extension(f) for f in others) else "")
        raise UserError(
            f"{what}: no file of a known format among {suffixes}; accepted: {', '.join(FORMATS)}, also compressed{told}"
        )
    ignored += [f for f in files if f not in set(known)]
    return divided(known, ignored, root)


def _inside(file: str) -> list[str]:
    """An archive's files, hidden ones left out; any other file, and an archive that is refused when it is read."""
    if not is_archive(file):
        return [file]
    try:
        return [one for one in members(file) if not _hidden(Path(one).relative_to(file))]
    except RowError:
        return [file]


def is_about_data(file: str) -> bool:
    """Whether a file beside data is no data, by its name: a README, a licence, what tools write about a data set."""
    path = Path(file)
    name = path.stem if path.suffix.lower() in COMPRESSED else path.name
    kind = extension(file)
    if kind == ".json":
        return bool(_NO_DATA_JSON.fullmatch(Path(name).stem))
    return (kind in TEXTS or not kind) and bool(_NO_DATA.fullmatch(Path(name).stem))


def why_not_read(file: str, kind: str = "texts") -> str:
    """Why a file beside data of a kind (``formats.Kind``) is not read, in a few words."""
    if is_about_data(file):
        return TELLS
    if kind != "texts" and extension(file) in (*DOCUMENTS, *TEXTS):
        what = "documents are texts: for" if extension(file) in DOCUMENTS else "texts are for"
        return f"{what} stage=pretraining or continued_pretraining"
    if extension(file) in ARROW and Path(file).name.startswith("cache-"):
        return CACHE
    if extension(file) in FORMATS:
        return NO_SPLIT
    return by_content(file) or FOREIGN.get(extension(file), UNKNOWN).partition(";")[0]


def remedy_of(kind: str, why: str) -> str:
    """What can be done about files of a kind (an extension) that are not read, as it stands behind ``why``; "" where
    nothing is to be done."""
    if why == NO_SPLIT:
        return "; put train, validation or test into its name"
    if why == UNKNOWN:
        return f"; {ENDLESS}" if not kind.startswith(".") else "; rename it to .txt if it is text"
    told, _, remedy = FOREIGN.get(kind, "").partition(";")
    return f";{remedy}" if told == why else ""


def _check_link(path: Path) -> None:
    """Raises UserError for a link to what is not there."""
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path}: a link to {path.readlink()}, which is not there; restore that file or remove the link"
        )


def _hidden(path: Path) -> bool:
    return any(part.startswith(_HIDDEN) for part in path.parts) or path.name.lower() in _OF_WINDOWS


def _near(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    found = nearest(path.name, names)
    return f"; did you mean {path.parent / found}?" if found else ""
