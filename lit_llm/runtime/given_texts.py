"""A text, or a folder of held-out sets, that a command is given to measure on. Torch is not needed."""

from __future__ import annotations

from pathlib import Path

from lit_llm.errors import UserError


def read_texts(file: Path, key: str = "texts") -> str:
    """The text of a file. Raises UserError, which begins with ``key``, for one that is missing, empty or no UTF-8."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{key}={file}: no such file; give a text, or the folder heldout/ of a run") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{key}={file}: not UTF-8 at byte {error.start}; give a text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{key}={file}: cannot be read ({error.strerror or error})") from None
    if not text.strip():
        raise UserError(f"{key}={file}: is empty; give a text to measure on")
    return text


def check_texts(place: Path, key: str = "texts") -> None:
    """Raise UserError for a file that ``read_texts`` refuses, or a folder without held-out sets."""
    if not place.is_dir():
        read_texts(place, key)
    elif not any(path.stat().st_size for path in place.glob("*.jsonl")):
        inside = place / "heldout"
        near = f"; give {key}={inside}" if inside.is_dir() else "; give the folder heldout/ of a run, or a text"
        raise UserError(f"{key}={place}: holds no held-out set (*.jsonl){near}")
