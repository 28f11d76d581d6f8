"""What a run is compared by (``evaluation.objective``): whether it will be measured, asked before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lit_llm.errors import UserError

LOSS = "val_loss"
# What is measured of each kind of held-out set (``evaluation.heldout.evaluate``).
MEASURES: dict[str, tuple[str, ...]] = {
    "documents": ("bits_per_byte", "perplexity"),
    "responses": ("nll", "bits_per_byte", "rouge1", "rouge2", "rougeL", "chrf", "sentence_bleu", "bleu", "exact_match",
                  "ended", "length", "verbatim"),
    "rankings": ("accuracy", "likelihood_accuracy", "implicit_accuracy", "accuracy_agreed", "accuracy_disputed", "nll",
                 "brier", "ece", "length_correlation"),
    "labels": ("likelihood_auc", "implicit_auc"),
    "flags": ("accuracy", "sensitivity", "specificity", "balanced_accuracy", "auroc", "average_precision", "brier",
              "ece", "base_rate"),
    "prompts": ("ended", "length", "kl/answer"),  # and score/NAME of each that judges
}  # fmt: skip
GENERATED = (
    "rouge1",
    "rouge2",
    "rougeL",
    "chrf",
    "sentence_bleu",
    "bleu",
    "exact_match",
    "ended",
    "length",
    "verbatim",
)
DATA = {  # the kind of the held-out sets of our own data; others are looked at when the data is there
    "lit_llm.data.raw_text.RawText": "documents",
    "lit_llm.data.domain_corpora.DomainCorpora": "documents",
    "lit_llm.data.task_pairs.TaskPairs": "responses",
    "lit_llm.data.instructions.Instructions": "responses",
    "lit_llm.data.preferences.Preferences": "rankings",
    "lit_llm.data.prompts.Prompts": "prompts",
}


def faults(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    """A line where a run's plain configuration names an objective that its data and stage cannot give."""
    name, data = values["evaluation"]["objective"], values["data"]
    if name is None or not isinstance(data, Mapping):
        return
    key = f"{prefix}evaluation.objective={name}"
    group, _, measure = name.removeprefix("-").partition("/")
    if not group or not measure:
        yield f"{key}: must be SET/MEASURE, or -SET/MEASURE where more is better, or null (the validation loss)"
        return
    kind = DATA.get(str(data.get("_target_")))
    if data.get("_target_") == "lit_llm.data.labelled_answers.LabelledAnswers":
        kind = "flags" if data.get("label") == "flagged" else "labels"
    if kind is None or isinstance(data.get("path"), Mapping):
        return
    sets = [str(data[one]) for one in ("name", "replay_name") if data.get(one)]
    if not any(group == one or group.startswith((f"{one}_", f"replayed_{one}")) for one in sets):
        yield f"{key}: the data holds out {' and '.join(sets)}; write {'-' * name.startswith('-')}{sets[0]}/MEASURE"
        return
    yield from _unknown(key, kind, measure, values)


def _unknown(key: str, kind: str, measure: str, values: Mapping[str, Any]) -> Iterator[str]:
    scorers = [*values["evaluation"]["scorers"], *(one for one in ("reward", "gold") if values["stage"].get(one))]
    known = [*MEASURES[kind], *(f"score/{one}" for one in scorers if kind == "prompts")]
    if kind == "responses" and not values["evaluation"]["generate"] and measure in GENERATED:
        yield f"{key}: is of generated answers; give evaluation.generate=true"
    elif measure not in known and not any(measure.startswith(f"{one}/") for one in known if one.startswith("score/")):
        yield f"{key}: no such measure; {kind} have {', '.join(known)}"


def refuse_incomparable(values: Mapping[str, Any]) -> None:
    """Raises UserError for a job of a sweep that would end without the number that jobs are compared by."""
    runs, prefix = values.get("stages"), ""
    if runs is not None:
        name = values["objective"] or next(reversed(list(runs)), "")
        if name not in runs or name in values["skip"]:
            return
        values, prefix = runs[name], f"stages.{name}."
    wanted, evaluation = values["evaluation"]["objective"], values["evaluation"]
    if wanted is not None and not evaluation["enabled"]:
        raise UserError(
            f"{prefix}evaluation.objective={wanted}: is measured by the evaluation; give "
            f"{prefix}evaluation.enabled=true, or {prefix}evaluation.objective=null, which compares the validation loss"
        )
    if wanted is None and values["trainer"]["limit_val_batches"] == 0:
        raise UserError(
            f"{prefix}trainer.limit_val_batches=0: jobs are compared by the validation loss; give 1 or more"
        )


def missing(values: Mapping[str, Any], sets: Mapping[str, str]) -> str | None:
    """What of the objective of a run's plain configuration the data, once read, does not hold out; None: it is there.

    ``sets``: the kind of each held-out set that holds something, by its name. Raises UserError for a measure that the
    set's kind has not.
    """
    name = values["evaluation"]["objective"]
    if name is None or not values["evaluation"]["enabled"]:
        return None
    group, _, measure = name.removeprefix("-").partition("/")
    if group in sets:
        for line in _unknown(f"evaluation.objective={name}", sets[group], measure, values):
            raise UserError(line)
        return None
    return f"evaluation.objective={name}: will not be measured; the data holds out {', '.join(sets) or 'nothing'}"
