"""Small files for every stage of a pipeline, and the overrides that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMES = ("open", "close", "read", "write", "sort", "join", "split", "parse", "count", "merge", "filter", "reverse")
THINGS = ("file", "list", "table", "string", "queue", "graph", "matrix", "buffer", "stream", "tree")


def write_data(folder: Path) -> None:
    """raw_text/, domain/, task_pairs/, instructions/, prompts/ with train, validation and test of each."""
    facts = [(name, thing) for name in NAMES for thing in THINGS]
    for number, split in enumerate(("train", "validation", "test")):
        some = [fact for index, fact in enumerate(facts) if index % 6 == number or (number == 0 and index % 6 > 2)]
        texts = [f"The function {n}_{t} will {n} the {t} that was given. It returns the {t}." for n, t in some]
        _write(folder / f"raw_text/{split}.jsonl", [{"text": text} for text in texts])
        _write(folder / f"domain/{split}.jsonl", [{"text": text.replace("function", "operator")} for text in texts])
        pairs = [{"source": text, "target": f"Will {n} a {t}."} for text, (n, t) in zip(texts, some, strict=True)]
        _write(folder / f"task_pairs/{split}.jsonl", pairs)
        asked = [{"role": "user", "content": f"What does {n}_{t} do?"} for n, t in some]
        told = [{"role": "assistant", "content": f"It will {n} the {t} that was given to it."} for n, t in some]
        _write(folder / f"instructions/{split}.jsonl", [{"messages": [a, b]} for a, b in zip(asked, told, strict=True)])
        _write(folder / f"prompts/{split}.jsonl", [{"messages": [message]} for message in asked])


def chain_overrides(data: Path, cache: Path) -> list[str]:
    """experiment=tiny on the files of ``write_data``."""
    stages = {
        "pretraining": f"path={data}/raw_text",
        "fine_tuning": f"path={data}/task_pairs",
        "instruction_tuning": f"path={data}/instructions",
        "ppo": f"path={data}/prompts",
        "continued_pretraining": f"path={data}/domain",
    }
    words = ["experiment=tiny", f"annotation.prompts={data}/prompts", f"cache_dir={cache}/stages"]
    words += [f"stages.{stage}.data.{word}" for stage, word in stages.items()]
    words += [f"stages.continued_pretraining.data.replay_path={data}/raw_text"]
    names = [*stages, "flag_classification", "reward_modeling", "dpo"]
    words += [f"stages.{stage}.data.cache_dir={cache}" for stage in names]
    return [*words, f"annotation.cache_dir={cache}"]


def write_rankings(folder: Path, things: int) -> None:
    """``rankings/``: three answers to a question of each name and of so many things, ranked by one annotator."""
    asked = [
        (f"What does {n}_{t} do?", [f"It will {n} the {t}.", f"A {t}.", n]) for n in NAMES for t in THINGS[:things]
    ]
    rows = [{"prompt": prompt, "completions": answers, "ranking": [1, 2, 2]} for prompt, answers in asked]
    for split, some in {"train": rows[8:], "validation": rows[:8]}.items():
        _write(folder / f"rankings/{split}.jsonl", some)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
