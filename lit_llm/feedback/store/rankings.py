"""The rankings as rows: what training, exports and the measures of agreement read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lit_llm.feedback.store.engine import Store

ROW_SCHEMA = 1


def rows(
    store: Store,
    kinds: Sequence[str] = ("normal",),
    splits: Sequence[str] | None = None,
    too_fast: bool = False,
    adjudicated: bool = False,
) -> Iterator[dict[str, Any]]:
    """One row for each submitted ranking, in a fixed order (task, annotator), from one state of the database.

    ``kinds``: normal, gold, repeat. ``too_fast``: with those under the time floor. ``adjudicated``: a task that has a
    final ranking yields that in place of its annotators'. Keys of a row: prompt, completions, ranking, annotator (the
    pseudonym), simulated, all_bad, flags, ratings, notes, comment, seconds, schema, prompt_hash, completion_hashes,
    models, checkpoints, positions (display place of each completion, from 1), submitted_at, agreement (with the task's
    other annotators, None when alone), split, tags, kind, task; gold (known ranks) for gold items; repeat_of (task) for
    repeats; unranked (answers that were left unranked, with their flags and ratings). Fewer than two answers ranked
    and all_bad: every answer is there, tied.
    """
    raise NotImplementedError
