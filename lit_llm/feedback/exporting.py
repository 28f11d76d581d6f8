"""Rankings as files for training: rankings, pairs, or labels of single answers (KTO), one JSON object a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from lit_llm.errors import UserError
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.exports import record_export
from lit_llm.feedback.store.rankings import rows

Kind = Literal["rankings", "pairs", "labels"]
# What each row says of its ranking as a whole.
_ABOUT = (
    "annotator", "simulated", "seconds", "submitted_at", "agreement", "adjudicated", "split", "task", "prompt_hash",
    "schema",
)  # fmt: skip


def export_rows(store: Store, kind: Kind, adjudicated: bool = False) -> Iterator[dict[str, Any]]:
    """The submitted rankings in a form that training reads; gold items, repeats, skipped and too fast ones are out.

    - rankings: as they are (formats.ranking).
    - pairs: ``chosen`` and ``rejected`` for every strict pair; the weights of a ranking's pairs sum to 1, so that long
      rankings do not count more (InstructGPT, arXiv:2203.02155, equation 1).
    - labels: the best answer is good, the worst bad, between them is nothing said; all bad: every one is bad.

    Args:
        adjudicated: a task's final ranking in place of those that it settles.

    Raises UserError for another kind.
    """
    forms = {"rankings": _whole, "pairs": _pairs, "labels": _labels}
    if kind not in forms:
        raise UserError(f"kind={kind}: must be one of {', '.join(forms)}")
    for row in rows(store, adjudicated=adjudicated):
        yield from forms[kind](row)


def export(store: Store, kind: Kind, output: Path, adjudicated: bool = False) -> dict[str, Any]:
    """Writes ``output``: one file (``.jsonl``) with the split in each row, or a folder with a file for each split.

    The export is noted in the project. Returns {"rows", "splits", "hash", "files"}; the hash is over all rows.
    Raises UserError when there is nothing to write, or no place to write to.
    """
    lines: dict[str, list[str]] = {}
    digest = hashlib.sha256()
    for row in export_rows(store, kind, adjudicated):
        line = json.dumps(row, ensure_ascii=False) + "\n"
        digest.update(line.encode("utf-8", "surrogatepass"))
        lines.setdefault(row["split"], []).append(line)
    if not lines:
        raise UserError(f"{store.place}: holds no ranking yet that {kind} could be made of")
    single = output.suffix.lower() in (".jsonl", ".ndjson")
    named = {output: [line for some in lines.values() for line in some]}
    files = named if single else {output / f"{split}.jsonl": some for split, some in lines.items()}
    for file, some in files.items():
        _write(file, "".join(some))
    counts = {split: len(some) for split, some in sorted(lines.items())}
    record_export(store, kind, {"adjudicated": adjudicated}, digest.hexdigest(), counts)
    return {
        "rows": sum(counts.values()),
        "splits": counts,
        "hash": digest.hexdigest(),
        "files": [str(f) for f in files],
    }


def _write(file: Path, text: str) -> None:
    """Whole or not at all."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8", errors="surrogatepass")
        unfinished.replace(file)
    except OSError as error:
        raise UserError(f"output={file}: cannot be written ({error.strerror or error})") from None


def _whole(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield dict(row)


def _pairs(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    ranks = row["ranking"]
    pairs = [(i, j) if ranks[i] < ranks[j] else (j, i) for i, j in combinations(range(len(ranks)), 2)]
    strict = [(i, j) for i, j in pairs if ranks[i] != ranks[j]]
    for better, worse in strict:
        told = {**_of_answer(row, better, "chosen"), **_of_answer(row, worse, "rejected")}
        yield {"prompt": row["prompt"], **told, "weight": 1 / len(strict), **_about(row)}


def _labels(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    ranks, all_bad = row["ranking"], row["all_bad"]
    best, worst = min(ranks), max(ranks)
    for i, rank in enumerate(ranks):
        if all_bad or (best < worst and rank in (best, worst)):
            label = not all_bad and rank == best
            yield {"prompt": row["prompt"], **_of_answer(row, i, "completion"), "label": label, **_about(row)}


def _of_answer(row: Mapping[str, Any], i: int, name: str) -> dict[str, Any]:
    return {
        name: row["completions"][i],
        f"{name}_hash": row["completion_hashes"][i],
        f"{name}_model": row["models"][i],
        f"{name}_checkpoint": row["checkpoints"][i],
        f"{name}_position": row["positions"][i],
        f"{name}_rank": row["ranking"][i],
        f"{name}_ratings": row["ratings"][i],
        f"{name}_flags": [flag for flag in row["flags"] if flag["completion"] == i],
    }


def _about(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in _ABOUT}
