"""Values of the environment variables that a configuration names, kept out of what is logged and written.

In their place stands what the configuration says, ``${oc.env:NAME}``.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lit_llm.config import schema
from lit_llm.data.projects import is_project

NAMED = re.compile(r"\$\{oc\.env:([^,}]+)")
MARK = re.compile(r"\$\{oc\.env:([^,}]+)(?:,([^}]*))?\}")
PASSWORD = re.compile(r"(://[^:/@\s]*:)(?P<inside>.+)(?=@)|([?&]password=)(?P<asked>[^&]+)")  # in a database's URL
SHORTEST = 6  # characters: shorter values (a number, "cpu", "/") stand in too many other texts


# The last words of keys whose values become names of files, of folders that are written to, or words of a model.
WRITTEN = ("name", "replay_name", "run_name", "project", "group", "tags", "job_type", "entity", "new_tokens",
           "base_model", "cache_dir", "objective", "output", "output_dir", "save_dir", "log_dir")  # fmt: skip
WRITTEN_HERE = ("people.folder", "answers.prompts", "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir",
                "hydra.output_subdir")  # fmt: skip


def named_by_environment(values: Any) -> Iterator[str]:
    """A line for every name, and every place that is written to, which a plain configuration takes from the
    environment: it would be read in clear in files that are passed on."""
    for key, text in schema.texts(values):
        last = key.rpartition(".")[2]
        samples = last == "prompts" and "callbacks." in key
        if NAMED.search(text) and (last in WRITTEN or key in WRITTEN_HERE or samples):
            yield f"{key}={text}: would be written in clear; give it as it is, the environment is for what is only read"


def passwords_in(values: Any) -> Iterator[str]:
    """A line for every database whose password a plain configuration holds: it is written into every run's folder."""
    for key, text in schema.texts(values):
        if "://" in text and is_project(text) and has_password(text):
            yield password_told(key, text)


def has_password(text: str) -> bool:
    """Whether a database's URL has a password in clear."""
    found = PASSWORD.search(text)
    return found is not None and "${oc.env:" not in (found["inside"] or found["asked"])


def password_told(key: str, text: str) -> str:
    """What is said of a database's URL that has a password in it."""
    shown = PASSWORD.sub(lambda one: f"{one[1] or one[3]}***", text)
    return (
        f"{key}={shown}: has a password in it, which would be written into every folder; put it into an environment "
        "variable and write ${oc.env:NAME} in its place"
    )


class Hiding(logging.Filter):
    """Rewrites log records before a handler prints or writes them."""

    def __init__(self, shown: Callable[[str], str]) -> None:
        super().__init__()
        self.shown = shown

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.shown(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = self.shown(logging.Formatter().formatException(record.exc_info))
        return True


def hiding(config: Any) -> Callable[[str], str]:
    """What puts the configuration's words in place of the values in a text."""
    names = {name.strip() for name in NAMED.findall(json.dumps(schema.plain(config), default=str))}
    held = {name: os.environ[name] for name in names if len(os.environ.get(name, "")) >= SHORTEST}

    def shown(text: str) -> str:
        for name, value in sorted(held.items(), key=lambda item: -len(item[1])):  # one value may contain another
            text = text.replace(value, "${oc.env:" + name + "}")
        return text

    return shown


def hide(config: Any) -> Callable[[str], str]:
    """Rewrites all log records from now on. Returns what rewrites a text."""
    shown = hiding(config)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Hiding(shown))
    return shown


def real(path: Path) -> Path:
    """A path of a plain configuration as the environment tells it now; as it is where a variable is not set."""
    return Path(real_text(str(path)))


def real_text(text: str) -> str:
    """``real`` of what need not be a path, as a database's URL."""
    return MARK.sub(_value, text)


def _value(mark: re.Match[str]) -> str:
    """A plain configuration has the default as JSON, one that is not made plain yet as it was written."""
    default = mark[0] if mark[2] is None else mark[2].strip()
    with suppress(ValueError):
        default = default if mark[2] is None else str(json.loads(default))
    return os.environ.get(mark[1], default)
