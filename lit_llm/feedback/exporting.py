"""Rankings as files for training: rankings, pairs, or labels of single answers (KTO), one JSON object a line."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from lit_llm.errors import UserError
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.exports import record_export
from lit_llm.feedback.store.rankings import rows
from lit_llm.runtime.atomic_files import written_atomically

Kind = Literal["rankings", "pairs", "labels"]
# What each row says of its ranking as a whole.
_ABOUT = (
    "annotator", "simulated", "seconds", "submitted_at", "agreement", "adjudicated", "split", "task", "prompt_hash",
    "schema",
)  # fmt: skip


def export_rows(store: Store, kind: Kind, adjudicated: bool = True) -> Iterator[dict[str, Any]]:
    """The submitted rankings in a form that training reads; gold items, repeats, skipped and too fast ones are out.

    - rankings: as they are (formats.ranking).
    - pairs: ``chosen`` and ``rejected`` for every strict pair; the weights of a ranking's pairs sum to 1, so that long
      rankings do not count more (InstructGPT, arXiv:2203.02155, equation 1).
    - labels: the best answer is good, the worst bad, between them is nothing said; all bad: each one is bad, also
      those left unranked.

    Args:
        adjudicated: a task's final ranking in place of those that it settles, as training reads the project itself.

    Raises UserError for another kind.
    """
    forms = {"rankings": _whole, "pairs": _pairs, "labels": _labels}
    if kind not in forms:
        raise UserError(f"kind={kind}: must be one of {', '.join(forms)}")
    for row in rows(store, adjudicated=adjudicated):
        yield from forms[kind](row)


class Lines:
    """The lines of one exported file, in UTF-8; once they have been written, ``note`` keeps what was written."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """``rows``: of ``export_rows``, read as the lines are."""
        self.counts: Counter[str] = Counter()  # of rows, by split
        self._rows, self._digest = rows, hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for row in self._rows:
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
            self._digest.update(line)
            self.counts[row["split"]] += 1
            yield line

    def note(self, store: Store, kind: Kind, filters: Mapping[str, Any]) -> str:
        """Notes the file in the project; returns its SHA-256."""
        record_export(store, kind, filters, self._digest.hexdigest(), dict(sorted(self.counts.items())))
        return self._digest.hexdigest()


def export(store: Store, kind: Kind, output: Path, adjudicated: bool = True) -> dict[str, Any]:
    """Writes ``output``: one file (``.jsonl``) with the split in each row, or a folder with a file for each split.

    Each file is noted in the project. Returns {"rows", "splits": {split: rows}, "files": {file: its SHA-256}}. Raises
    UserError when there is nothing to write, or no place to write to.
    """
    rows = list(export_rows(store, kind, adjudicated))
    if not rows:
        raise UserError(f"{store.place}: holds no ranking yet that {kind} could be made of")
    counts = Counter(row["split"] for row in rows)
    parts: dict[Path, tuple[list[dict[str, Any]], dict[str, Any]]] = {output: (rows, {})}
    if output.suffix.lower() not in (".jsonl", ".ndjson"):
        parts = {
            output / f"{split}.jsonl": ([row for row in rows if row["split"] == split], {"split": split})
            for split in sorted(counts)
        }
    files = {}
    for file, (some, of) in parts.items():
        lines = Lines(some)
        _write(file, lines)
        files[str(file)] = lines.note(store, kind, {"adjudicated": adjudicated, **of})
    return {"rows": len(rows), "splits": dict(sorted(counts.items())), "files": files}


def _write(file: Path, lines: Iterable[bytes]) -> None:
    """Whole or not at all."""
    with written_atomically(file) as opened:
        opened.writelines(lines)


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
    for answer in row["unranked"] if all_bad else ():
        told = {
            "completion": answer["completion"],
            "completion_hash": answer["completion_hash"],
            "completion_model": answer["model"],
            "completion_checkpoint": answer["checkpoint"],
            "completion_position": answer["position"],
            "completion_rank": None,
            "completion_ratings": answer["ratings"],
            "completion_flags": answer["flags"],
        }
        yield {"prompt": row["prompt"], **told, "label": False, **_about(row)}


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
