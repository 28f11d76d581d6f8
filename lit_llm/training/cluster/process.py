"""A job's process made what the command's own is: resolvers, plugins, the words that were typed, the log."""

from __future__ import annotations

import logging
import sys

from hydra.core.utils import setup_globals

from lit_llm.config import interruption, schema
from lit_llm.config.command_line import whole_files
from lit_llm.runtime.started_by import started


def prepared(words: list[str]) -> bool:
    """Whether this is the job's first task, which writes what is kept. ``words``: the command's ``sys.argv``."""
    schema.register()
    setup_globals()
    whole_files()
    sys.argv[:] = words
    interruption.given[:] = words[1:]
    first = started().rank == 0
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s", stream=sys.stdout)
    return first
