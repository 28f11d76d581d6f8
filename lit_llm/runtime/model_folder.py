"""What a model folder has to be before anything is read from it: there, a model's, whole, and as it was made.

Nothing heavy is imported here: a command can say what is wrong with a folder before it imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_llm.errors import UserError
from lit_llm.runtime.file_hashes import sha256_of

LINEAGE = "lineage.json"
ADAPTER = "adapter_config.json"
_CHECKPOINT = "is a run's checkpoint; give the folder model/ of a finished run, or resume=RUN"
_POINTER = b"version https://git-lfs.github.com/spec/"
_HUB = re.compile(r"(?:hf:/+|https?:/+(?:www\.)?huggingface\.co/+)?([\w.-]+/[\w.-]+?)(?:/(?:tree|resolve)/.*)?/?")


def check_model_folder(folder: str | Path, key: str | None = None) -> None:
    """Raise UserError, one line, where ``folder`` is no model's: not there, a hub's name, a run, a file.

    ``key`` is what named it (``init_from``, ``model``): the line begins with it and says what to give in its place.
    """
    folder = Path(folder)
    named, give = (f"{key}={folder}", f"{key}=") if key else (str(folder), "")
    if folder.is_dir():
        _check_kind(folder, named, give)
    elif folder.exists():
        _refuse_file(folder, named, give)
    else:
        raise UserError(f"{named}: {_not_there(folder, give)}")


def _not_there(folder: Path, give: str) -> str:
    hub = _HUB.fullmatch(str(folder))
    if hub is None or (folder.parent.is_dir() and not str(folder).startswith(("hf:", "http"))):
        return "no such folder; give a model folder on this disk (config.json, model.safetensors, tokenizer.json)"
    return f"no such folder; a model of the Hugging Face hub is named with hub: before it: give {give}hub:{hub[1]}"


def _refuse_file(file: Path, named: str, give: str) -> None:
    if file.suffix == ".ckpt":
        raise UserError(f"{named}: {_CHECKPOINT}")
    raise UserError(f"{named}: is a file; give the folder that holds it ({give}{file.parent})")


def _check_kind(folder: Path, named: str, give: str) -> None:
    if (folder / "config.json").is_file() or is_adapter(folder):
        return
    if folder.suffix == ".ckpt":
        raise UserError(f"{named}: {_CHECKPOINT}")
    if (folder / "model" / "config.json").is_file():
        raise UserError(f"{named}: is a run's folder; give its model: {give}{folder / 'model'}")
    snapshots = sorted(path.parent for path in folder.glob("snapshots/*/config.json"))
    if snapshots:
        raise UserError(f"{named}: is an entry of the hub's cache; give its snapshot: {give}{snapshots[-1]}")


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter, as PEFT lays it out, and no whole model."""
    folder = Path(folder)
    return (folder / ADAPTER).is_file() and not any(folder.glob("model*.safetensors*"))


_OLDER = ("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "tekken.json", "vocab.txt")


def without_tokenizer(folder: Path) -> str:
    """What is said of a folder that has no ``tokenizer.json``. Older files do not say how texts are cut: a class of
    transformers does."""
    older = [name for name in _OLDER if (folder / name).is_file()]
    if not older:
        return "no tokenizer.json here; give a model folder that holds one"
    needs = " sentencepiece" if any(name.endswith(".model") for name in older) else ""
    return (
        f"no tokenizer.json here, only {' and '.join(older)}; transformers makes one of it (pip install transformers"
        f"{needs}): AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    )


def only_pickled(folder: Path) -> str | None:
    """What is said of a folder whose weights are pickled alone; None: they are not."""
    if any(folder.glob("*.safetensors")) or not any(next(folder.glob(f"*.{end}"), None) for end in ("bin", "pth")):
        return None
    return (
        "has pickled weights only, which can run code; write them again as model.safetensors where you trust them: "
        f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r}), of transformers"
    )


def refuse_pointer(path: Path) -> None:
    """Raise UserError where a file is the few lines that Git LFS leaves in place of one that was not fetched."""
    try:
        with path.open("rb") as file:
            head = file.read(200)
    except OSError:  # told by who reads it
        return
    if head.startswith(_POINTER):
        size = re.search(rb"^size (\d+)", head, re.MULTILINE)
        of = f" of a file of {int(size[1]):,} bytes" if size else ""
        raise UserError(f"{path}: is a Git LFS pointer{of}, not the file; fetch it (git lfs pull)")


# ---- as it was made ------------------------------------------------------------------------------------------------


def check_recorded(folder: Path, names: Iterable[str]) -> None:
    """Raise UserError where a file of ``names`` is not what the folder's lineage recorded; without a lineage: nothing.

    Files that were not recorded, or are gone, are left to who reads them.
    """
    recorded = _recorded(folder)
    for name in names:
        path, wanted = folder / name, recorded.get(name)
        if wanted is None or not path.is_file():
            continue
        found = sha256_of(path)
        if found != wanted:
            raise UserError(
                f"{path}: damaged or edited, its SHA-256 is {found[:12]} and lineage.json recorded {str(wanted)[:12]}; "
                f"fetch or make it again, or remove {folder / LINEAGE} to take the folder as it is"
            )


@contextmanager
def checked_meanwhile(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """``check_recorded`` in a thread, while the block reads the same files; damage is told before what it led to."""
    if not (folder / LINEAGE).is_file():
        yield
        return
    with ThreadPoolExecutor(1, "sha256") as pool:
        check = pool.submit(check_recorded, folder, list(names))
        try:
            yield
        finally:
            check.result()


def _recorded(folder: Path) -> dict[str, Any]:
    path = folder / LINEAGE
    if not path.is_file():
        return {}
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return dict(files)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{path}: damaged, names no files; fetch it again, or remove it to take the folder as it is"
        ) from None
