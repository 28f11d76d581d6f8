"""A config.json or adapter_config.json as it is read: every complaint names the file, the key and the value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_llm.errors import UserError
from lit_llm.runtime.model_folder import refuse_pointer


class ConfigFile:
    """A config.json, whose complaints name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_pointer(path)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; a model folder has config.json and model.safetensors") from None
        except (OSError, ValueError, RecursionError) as error:  # ValueError: neither UTF-8 nor JSON
            raise UserError(f"{path}: damaged, not readable as JSON ({_one_line(error)})") from None
        if not isinstance(raw, dict):
            raise UserError(f"{path}: holds a {type(raw).__name__}, should hold an object of settings")
        self.raw: dict[str, Any] = raw

    def number(self, key: str, kind: type[int] | type[float] = int, default: float | None = None) -> Any:
        value = self.raw.get(key)
        value = default if value is None else value
        if value is None:
            raise UserError(f"{self.path}: {key} is missing")
        return self.checked(key, value, kind)

    def checked(self, key: str, value: Any, kind: type[int] | type[float]) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind is float and isinstance(value, float))):
            raise UserError(f"{self.path}: {key}={value!r} should be {'an integer' if kind is int else 'a number'}")
        if whole and abs(value) >= 2**31:
            raise UserError(f"{self.path}: {key}={value} should be below {2**31}")
        return kind(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise UserError(f"{self.path}: {key}={value!r} should be true or false")
        return value

    def refuse(self, key: str, value: Any, accepted: str) -> UserError:
        return UserError(f"{self.path}: {key}={value!r} is not supported: {accepted}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
