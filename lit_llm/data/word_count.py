"""A task that a program can verify, made of the installed documentation: answer in exactly so many words.

``installed/word_count`` is a folder of JSONL files with rows ``{"prompt", "words", "function"}``: the questions of
``installed/prompts`` in their splits (those of one turn), each with a number of words that it is to be answered in. A
model that was never asked for a number of words is right as often as chance has it, so that learning shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_llm.data.installed_docs import corpus, questions
from lit_llm.runtime.atomic_files import folder_beside

FEWEST, MOST = 3, 6
"""Words that may be asked for: so few that a small model's usual answers (4 to 12 words) hit some of them."""
WORDING = "{question} Answer with exactly {words} words."


def part_files(cache_dir: str | Path = "outputs/cache") -> list[str]:
    """The files of ``installed/word_count``, made first if need be; the installed prompts are made for them."""
    sources = [Path(file) for file in corpus.part_files("prompts", cache_dir)]
    folder = Path(cache_dir) / f"word_count-{_key(sources)}"
    if not folder.is_dir():
        with folder_beside(folder) as staging:
            for source in sources:
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(source))
                (staging / source.name).write_text(text, encoding="utf-8")
    return sorted(str(file) for file in folder.glob("*.jsonl"))


def _rows(source: Path) -> Iterator[dict[str, Any]]:
    for line in filter(None, source.read_text(encoding="utf-8").split("\n")):
        row = json.loads(line)
        if len(row["messages"]) == 1:
            yield asked(row)


def asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of one question as one of this task; the number is the same for the same question on every machine."""
    question = row["messages"][0]["content"]
    words = FEWEST + questions.number(f"{question} words") % (MOST - FEWEST + 1)
    return {
        "prompt": WORDING.format(words=words, question=question), "words": words, "function": row["function"],
    }  # fmt: skip


def _key(sources: list[Path]) -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()[:16]
