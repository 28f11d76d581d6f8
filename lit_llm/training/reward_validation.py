"""Validation at the end of a reward model's run: ``reward_validation.json`` in its folder, covered by its lineage."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any

import torch

from lit_llm.backbone.models import ScoreModel
from lit_llm.data.preferences import Preferences
from lit_llm.evaluation.score_readers import ModelReader
from lit_llm.rewards.validation.result import ValidationResult, shown
from lit_llm.runtime.counted import counted
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.training.evaluate import RunEvaluation

log = logging.getLogger("lit_llm")

FEW = 30  # prompts: the standard error of a share of a third is 9 points then


def validate_reward_model(evaluation: RunEvaluation, folder: RunFolder, device: torch.device) -> dict[str, Any] | None:
    """Validates the reward model as its stage says, and writes it into the model folder. Returns its plain values."""
    validator, data = getattr(evaluation.parts.stage, "reward_validation", None), evaluation.parts.data
    if validator is None or not isinstance(data, Preferences):
        return None
    model = evaluation.made.model
    if not isinstance(model, ScoreModel):
        return None
    heldout = [item for one in evaluation.sets.values() if one.kind == "rankings" for item in one.items]
    reader = ModelReader(model.to(device).eval(), evaluation.made.tokenizer, validator.longest)
    bf16 = evaluation.evaluator.settings.bf16  # half the time of float32
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        taken: ValidationResult = validator.validate(reader, heldout, data.training_comparisons())
    result = replace(taken, trained_with_attacks=data.options.attacks > 0, settings=asdict(validator))
    result.save(folder.model)
    say(result)
    return result.as_dict()


def say(result: ValidationResult) -> None:
    """The result in a few lines."""
    log.info(
        "  reward validation: %s", "passed" if result.passed else "FAILED: PPO will not start from this reward model"
    )
    for reason in result.reasons:
        log.info("    %s", reason)
    prompts = max((probe.n for probe in result.probes.values()), default=0)
    if 0 < prompts < FEW:
        log.warning(
            "    %d held-out prompts are too few to tell much; hold out more "
            "(data.test_fraction, or {train: ..., test: ...} in data.path)",
            prompts,
        )
    if result.floors:
        floors = ", ".join(f"{name} {shown(floor.accuracy)}" for name, floor in result.floors.items())
        log.info("    accuracy %s; floors: %s", shown(result.accuracy), floors)
    if result.probes:
        attacks = ", ".join(f"{name} {probe.share:.0%}" for name, probe in result.probes.items())
        how = " (it was trained with attacks of these kinds)" if result.trained_with_attacks else ""
        log.info("    attacks that outscore the best answer of %s%s: %s", counted(prompts, "prompt"), how, attacks)
