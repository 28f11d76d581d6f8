"""A regular expression as a verifier, bounded in time: what a model writes can make a pattern search for years.

Python cannot stop a search once it runs, so it runs in a process of its own, which is killed.
"""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

from lit_llm.errors import UserError
from lit_llm.rewards.base import Prompts, Reward
from lit_llm.rewards.options import RegularExpressionOptions

STARTING_SECONDS = 30.0  # for a process to start on a machine that is busy
_SEARCH = """
import ctypes, json, os, re, sys
given = json.loads(sys.stdin.readline())
if sys.platform == "linux":  # as lit_llm.runtime.parent: it ends with who asks, also while it searches
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    if os.getppid() != given["parent"]:
        sys.exit()
find = getattr(re.compile(given["pattern"]), given["where"])
print("ready", flush=True)
for text in given["texts"]:
    print(int(find(text) is not None), flush=True)
"""


class RegularExpression(Reward):
    """1 where the pattern is found in the answer, else 0; NaN where the search takes longer than ``seconds``. Options:
    ``RegularExpressionOptions``."""

    Options: ClassVar[type[RegularExpressionOptions]] = RegularExpressionOptions

    def __init__(self, options: RegularExpressionOptions | None = None, **values: Any) -> None:
        self.options = RegularExpressionOptions.of(options, values)

    def __call__(self, prompts: Prompts, completions: Sequence[str]) -> list[float]:
        del prompts
        scores: list[float] = []
        while len(scores) < len(completions):  # a process is started again behind the answer it hung on
            scores += self._scores(completions[len(scores) :])
        return scores

    def _scores(self, texts: Sequence[str]) -> list[float]:
        """Scores of the texts up to the first one that took too long, that one included."""
        try:
            return self._searched(texts)
        except (OSError, queue.Empty) as error:
            why = f"no answer in {STARTING_SECONDS:g} s" if isinstance(error, queue.Empty) else error
            raise UserError(
                f"reward.pattern: {self.options.pattern}: the search could not be started ({why})"
            ) from error

    def _searched(self, texts: Sequence[str]) -> list[float]:
        """Raises OSError or queue.Empty where the process cannot be started."""
        asked = {"pattern": self.options.pattern, "where": self.options.where, "texts": list(texts)}
        given = json.dumps({**asked, "parent": os.getpid()})
        command = [sys.executable, "-I", "-S", "-c", _SEARCH]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            lines: queue.Queue[str] = queue.Queue()
            reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
            reader.start()
            try:
                process.stdin.write(given + "\n")
                process.stdin.close()
                if lines.get(timeout=STARTING_SECONDS) != "ready":
                    raise UserError(f"reward.pattern: {self.options.pattern}: the search could not be started")
                return self._read_scores(lines, len(texts))
            finally:
                process.kill()
                reader.join()

    def _read_scores(self, lines: queue.Queue[str], count: int) -> list[float]:
        scores: list[float] = []
        while len(scores) < count:
            try:
                scores.append(float(lines.get(timeout=self.options.seconds) or math.nan))
            except queue.Empty:
                return [*scores, math.nan]
        return scores


def _read(stream: object, lines: queue.Queue[str]) -> None:
    for line in stream:  # type: ignore[attr-defined]
        lines.put(line.strip())
    lines.put("")  # it ended: nothing more comes
