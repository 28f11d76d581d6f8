"""A regular expression as a verifier, bounded in time: what a model writes can make a pattern search for years.

Python cannot stop a search once it runs, so it runs in a process of its own, which is killed.
"""

from __future__ import annotations

import json
import math
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Sequence

from lit_llm.errors import UserError
from lit_llm.rewards.base import Prompts, Reward

WHERE = ("search", "match", "fullmatch")
STARTING_SECONDS = 30.0  # for a process to start on a machine that is busy
_SEARCH = """
import json, re, sys
given = json.loads(sys.stdin.readline())
find = getattr(re.compile(given["pattern"]), given["where"])
print("ready", flush=True)
for text in given["texts"]:
    print(int(find(text) is not None), flush=True)
"""


class RegularExpression(Reward):
    """1 where the pattern is found in the answer, else 0; NaN where the search takes longer than ``seconds``.

    Args:
        pattern: in Python's syntax; ``(?s)`` before it lets a dot take line ends, ``(?i)`` ignores case.
        where: search (anywhere), match (from the beginning), or fullmatch (the whole answer).
        seconds: for one answer.
    """

    def __init__(self, pattern: str, where: str = "search", seconds: float = 1.0) -> None:
        if where not in WHERE:
            raise UserError(f"reward.where: {where}; must be one of {', '.join(WHERE)}")
        if not seconds > 0:
            raise UserError(f"reward.seconds: {seconds}; must be above 0")
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise UserError(f"reward.pattern: {pattern} is no regular expression ({error})") from None
        self.pattern, self.where, self.seconds = pattern, where, seconds

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
            raise UserError(f"reward.pattern: {self.pattern}: the search could not be started ({why})") from error

    def _searched(self, texts: Sequence[str]) -> list[float]:
        """Raises OSError or queue.Empty where the process cannot be started."""
        given = json.dumps({"pattern": self.pattern, "where": self.where, "texts": list(texts)})
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
                    raise UserError(f"reward.pattern: {self.pattern}: the search could not be started")
                return self._read_scores(lines, len(texts))
            finally:
                process.kill()
                reader.join()

    def _read_scores(self, lines: queue.Queue[str], count: int) -> list[float]:
        scores: list[float] = []
        while len(scores) < count:
            try:
                scores.append(float(lines.get(timeout=self.seconds) or math.nan))
            except queue.Empty:
                return [*scores, math.nan]
        return scores


def _read(stream: object, lines: queue.Queue[str]) -> None:
    for line in stream:  # type: ignore[attr-defined]
        lines.put(line.strip())
    lines.put("")  # it ended: nothing more comes
