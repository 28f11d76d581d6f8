"""The refusal of a row that is of no known format: what it has, what would do, and what it may have been meant for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lit_llm.data import row_keys
from lit_llm.data.nearest_format import suggestion
from lit_llm.data.row_errors import RowError
from lit_llm.runtime.suggestions import nearest

TEXTS = "data=raw_text (stage=pretraining, continued_pretraining)"
USED_BY = {
    "texts": TEXTS,
    "examples": "data=task_pairs or data=instructions (stage=fine_tuning, instruction_tuning)",
    "comparisons": "data=preferences (stage=reward_modeling, dpo)",
    "labels": "data=labelled_answers (stage=kto)",
    "prompts": "data=prompts (stage=ppo, grpo)",
}
"""By the kind of data, what reads it."""


class OfFormat(NamedTuple):
    """What messages say of a format (``formats.FORMATS``)."""

    name: str
    kind: str
    keys: tuple[tuple[str, ...], ...]  # all of one of these

    def fits(self, value: Mapping[str, Any]) -> int:
        """How many of a row's keys say that it is of this format."""
        return max(len(keys) if all(key in value for key in keys) else 0 for keys in self.keys)


def no_rows(what: str, kind: str, formats: Sequence[OfFormat]) -> str:
    """What is said of texts, those of documents too, where rows are needed: ``what`` is there, and what would do."""
    return (
        f"{what} and no rows; texts are for stage=continued_pretraining (or pretraining), while {USED_BY[kind]} learns "
        f"from rows (.jsonl, .json, .csv, .parquet ...), each with one of: {_accepted(kind, formats)}"
    )


def unfit(
    value: Mapping[str, Any],
    kind: str,
    where: str,
    what: str,
    formats: Sequence[OfFormat],
    renamed: Mapping[str, str],
) -> RowError:
    """Keys found, formats accepted, and the kind of data that these keys are or else the nearest match of each.

    Args:
        kind: of data (``formats.Kind``) that is wanted.
        renamed: ``data.columns``, by which the row's keys have their names.
    """
    mine = [form for form in formats if form.kind == kind]
    wanted = list(dict.fromkeys(key for form in mine for keys in form.keys for key in keys))
    near = [(key, nearest(str(key), wanted)) for key in value if key not in wanted]
    hint = "".join(f"; did you mean '{n}' for '{str(k)[:40]}'?" for k, n in near[:8] if n and n not in value)
    other = max((form for form in formats if form.kind != kind), key=lambda form: form.fits(value))  # most keys
    missing = ([key for key in keys if key not in value] for form in mine for keys in form.keys if len(keys) > 2)
    lacking = [names[0] for names in missing if len(names) == 1]
    fitting = other.fits(value)
    if other.kind == "texts" and fitting and all(key == "text" or row_keys.known(key, "texts") for key in value):
        hint = f"; this is for {TEXTS}"
    elif lacking and not hint and fitting < 2:
        hint = f"; '{lacking[0]}' is missing"
    elif fitting > 1:
        hint = f"; this is for {USED_BY[other.kind]}"
    elif told := suggestion(
        value,
        [(form.name, keys) for form in mine for keys in form.keys],
        kind,
        guess=not fitting,
        renamed=renamed,
    ):
        hint = told  # which says the same of all columns at once
    elif fitting and not hint:
        hint = f"; this is for {USED_BY[other.kind]}"
    keys = ", ".join(str(key)[:40] for key in list(value)[:12]) or "none"
    accepted = _accepted(kind, formats)
    return RowError("unknown_format", f"{where}: {what}; keys found: {keys}; accepted: {accepted}{hint}")


def _accepted(kind: str, formats: Sequence[OfFormat]) -> str:
    """The keys of each format of a kind."""
    return "; ".join(dict.fromkeys(" + ".join(keys) for form in formats if form.kind == kind for keys in form.keys))
