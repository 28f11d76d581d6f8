"""What merging adapters into weights of 16 bits costs: a held-out set by the adapters, and by the model as it is saved.

Training is in float32 (or autocast from it) whatever the base is stored in, but a merged model is written in the base's
types: a change of a weight below half a step of bfloat16 (1/512 of it) is rounded away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from lit_llm.backbone.loaded import LoadedModel
from lit_llm.evaluation.evaluator import Evaluator
from lit_llm.evaluation.heldout import can_evaluate
from lit_llm.evaluation.scores import Scores
from lit_llm.records import Heldout
from lit_llm.stages.base import Stage
from lit_llm.text.tokenizer import Tokenizer

MEASURES = ("bits_per_byte", "nll", "likelihood_accuracy", "likelihood_auc")


def rounds(stage: Stage) -> str | None:
    """The type of 16 bits in which the merged weights of a stage are written; None: they are not rounded, or nothing is
    merged. Of float32 only its own rounding would show, which every product has."""
    stored = getattr(stage.model, "stored", None)
    if not (stage.lora_rank and stage.lora_merge) or stored is None:
        return None
    types = [stored.main, *stored.tensors.values()]
    return next((str(one).removeprefix("torch.") for one in types if one.itemsize < torch.float32.itemsize), None)


def by_adapters(
    stage: Stage, tokenizer: Tokenizer, evaluator: Evaluator, sets: Mapping[str, Heldout], device: torch.device
) -> Scores | None:
    """The scores of the stage's network, its adapters beside its weights, on the first set that needs no sampling; None
    where there is no such set. The network is on the CPU before and after."""
    heldout = next((one for one in sets.values() if one.kind != "prompts" and can_evaluate(stage.model, one)), None)
    if heldout is None:
        return None
    plain = Evaluator(replace(evaluator.settings, generate=False))
    try:
        stage.model.to(device)
        return plain.evaluate(LoadedModel(stage.model, tokenizer), heldout, f"{heldout.name} unmerged")
    finally:
        stage.model.to("cpu")


def merge_loss(stage: Stage, adapters: Scores | None, heldout: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``{"merge": ...}`` for metrics.json: the set, the measure, its mean by the adapters and merged, their difference,
    and the type that is written; empty where there is nothing to compare.

    Args:
        heldout: the scores of the model as saved, {set: {measure: {"mean", "se", "n"}}}.
    """
    if adapters is None:
        return {}
    before, after = adapters.as_metrics(), heldout.get(adapters.name, {})
    for name in MEASURES:
        one, other = ((scores.get(name) or {}).get("mean") for scores in (before, after))
        if one is not None and other is not None:
            found = {"set": adapters.name, "measure": name, "adapters": one, "merged": other}
            return {"merge": {**found, "difference": other - one, "stored": rounds(stage)}}
    return {}


def in_a_line(merge: Mapping[str, Any]) -> str:
    """For the end of a run."""
    return (
        f"merged into {merge['stored']}: {merge['set']} {merge['measure']} {merge['merged']:.5g} as saved, "
        f"{merge['adapters']:.5g} by the adapters ({merge['difference']:+.2g})"
    )
