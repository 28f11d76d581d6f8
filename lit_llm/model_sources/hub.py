"""A model of the Hugging Face hub by its name: weights, configuration and tokenizer are fetched, code never.

The hub's own client keeps them in its own cache (``HF_HOME``), one folder a revision, which other programs share; its
environment variables hold here too (``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import disk_reason

PREFIX = "hub:"
SOURCE = "source.json"  # in a folder that was read from a file: where it comes from
FILES = (
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "README.md", "adapter_config.json",
    "adapter_model.safetensors",
)  # fmt: skip
"""What is fetched: the card too, for the licence that it names."""
_CLIENTS = ("huggingface_hub", "httpx", "requests")  # packages whose errors are the network's
_NAME = re.compile(r"hub:([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")


def folder_of(text: str) -> Path:
    """The folder of a revision in the hub's cache, fetched where it is not there; without a network what is there.

    Raises UserError, one line: not a name, the client not installed, no such model or revision, one that its makers
    give only to those who asked, the hub out of reach, no safetensors in it.
    """
    found = _NAME.fullmatch(text)
    if found is None:
        raise UserError(f"{text}: write hub:OWNER/NAME, or hub:OWNER/NAME@REVISION for a branch, tag or commit")
    folder = Path(_fetched(text, *found.groups()))
    for patterns, what in (
        (("config.json", "adapter_config.json"), "config.json"),
        (("*.safetensors",), "safetensors"),
    ):
        if not any(next(folder.glob(pattern), None) for pattern in patterns):
            raise UserError(f"{text}: has no {what}; give a model with config.json, safetensors and tokenizer.json")
    return folder


def in_cache(text: str) -> Path | None:
    """The folder of a revision where the hub's cache holds it; the network is not asked. None: it is not there."""
    found = _NAME.fullmatch(text)
    try:
        from huggingface_hub import snapshot_download

        name, revision = found.groups() if found is not None else ("", None)
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES), local_files_only=True))
    except (ImportError, OSError, ValueError):
        return None
    return folder if (folder / "config.json").is_file() else None


def _fetched(text: str, name: str, revision: str | None) -> str:
    try:
        from huggingface_hub import errors, snapshot_download
        from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars
    except ImportError:
        raise UserError(f"{text}: needs the package huggingface_hub: pip install 'lit-llm[hub]'") from None
    from lit_llm.runtime.progress_bars import on_terminal

    (enable_progress_bars if on_terminal() else disable_progress_bars)()
    try:
        return snapshot_download(name, revision=revision, allow_patterns=list(FILES))
    except errors.GatedRepoError:
        raise UserError(
            f"{text}: is given only to those who asked; ask on its page of the hub, then log in (hf auth login) or set "
            "HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{text}: the hub has no such model, or it is private: log in (hf auth login) or set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{text}: the hub's {name} has no revision {revision}; give a branch, a tag or a commit"
        ) from None
    except (errors.HFValidationError, ValueError) as error:
        raise UserError(f"{text}: {_first(error)}") from None
    except Exception as error:
        raise _out_of_reach(text, name, revision, error) from error


def _out_of_reach(text: str, name: str, revision: str | None, error: Exception) -> Exception:
    """The one line for a network's error, or a full disk's; another kind comes back as it is."""
    if reason := disk_reason(error):
        return UserError(f"{text}: cannot be kept ({reason}); free space, or set HF_HOME to another disk")
    if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _CLIENTS:
        return error
    whole = name if revision is None else f"{name} --revision {revision}"
    return UserError(
        f"{text}: the hub is out of reach ({_first(_root(error))}), and this machine holds no copy; with a network "
        f"once: hf download {whole}"
    )


def _root(error: BaseException) -> BaseException:
    """What the network said, below what the client made of it."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def source_of(folder: Path) -> dict[str, str]:
    """Name and revision of a folder in the hub's cache (``models--OWNER--NAME/snapshots/REVISION``); else nothing."""
    parts: Any = folder.resolve().parts
    for place, part in enumerate(parts[:-2]):
        if part.startswith("models--") and parts[place + 1] == "snapshots":
            name = part.removeprefix("models--").replace("--", "/", 1)
            return {"name": name, "source": f"{PREFIX}{name}", "revision": parts[place + 2]}
    return {}
