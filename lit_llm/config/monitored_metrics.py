"""Logged numbers that a callback names (``callbacks.checkpoints.monitor``): whether anything logs them, asked before
the first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

CHECKPOINTS = "lit_llm.callbacks.checkpoints.Checkpoints"
_LANGUAGE = ("loss", "bits_per_byte")
_PAIRS = ("loss", "nll", "rewards/accuracies", "rewards/chosen", "rewards/margins", "rewards/rejected",
          "logps/chosen", "logps/rejected")  # fmt: skip
_ANSWERS = ("loss", "scores", "kl", "response_length", "eos_rate", "gold")
# What validation logs of each set, as val/SET/NAME, by the class of the stage; others are looked at in the run.
VALIDATED: dict[str, tuple[str, ...]] = {
    "lit_llm.stages.pretraining.Pretraining": _LANGUAGE,
    "lit_llm.stages.continued_pretraining.ContinuedPretraining": _LANGUAGE,
    "lit_llm.stages.fine_tuning.FineTuning": _LANGUAGE,
    "lit_llm.stages.instruction_tuning.InstructionTuning": _LANGUAGE,
    "lit_llm.stages.reward_modeling.RewardModeling": (
        "loss", "accuracy", "accuracy_agreed", "accuracy_disputed", "margin", "nll", "brier", "ece", "reward",
        "reward_min", "reward_max", "reward_std", "length_correlation", "shorter_wins", "longer_wins",
    ),
    "lit_llm.stages.flag_classification.FlagClassification": (
        "loss", "accuracy", "accuracy_at_half", "threshold", "sensitivity", "specificity", "balanced_accuracy", "auroc",
        "average_precision", "brier", "ece", "base_rate",
    ),
    "lit_llm.stages.preference_optimization.PreferenceOptimization": _PAIRS,
    "lit_llm.stages.kto.KTO": (*_PAIRS, "kl"),
    "lit_llm.stages.ppo.PPO": _ANSWERS,
    "lit_llm.stages.grpo.GRPO": (*_ANSWERS, "success", "success_se", "pass@2", "pass@4", "pass@8"),
}  # fmt: skip


def faults(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    """A line for every callback of a run's plain configuration that waits for a number which nothing logs."""
    for name, node in values["callbacks"].items():
        if not isinstance(node, Mapping) or not isinstance(node.get("monitor"), str):
            continue
        reason = _reason(node["monitor"], values, ours=node.get("_target_") == CHECKPOINTS)
        if reason is not None:
            yield f"{prefix}callbacks.{name}.monitor={node['monitor']}: {reason}"


def _reason(name: str, values: Mapping[str, Any], ours: bool) -> str | None:
    """Why nothing logs ``name``; None: something does, or the run will tell."""
    data, stage = values["data"], values["stage"]
    if not isinstance(data, Mapping) or not isinstance(stage, Mapping):
        return None
    sets = [str(data[key]) for key in ("name", "replay_name") if data.get(key)]
    shown = sets[0] if sets else "SET"
    measures = VALIDATED.get(str(stage.get("_target_")))
    known = ["val/loss", *(f"val/{shown}/{one}" for one in measures or ("...",) if one != "gold" or stage.get("gold"))]
    group, _, measure = name.removeprefix("val/").partition("/")
    if not name.startswith("val/"):
        wrong = ours or "/" not in name  # callbacks of the user's own may look at train/loss
        return f"nothing logs it; there are {', '.join(known)}" if wrong else None
    if values["trainer"]["limit_val_batches"] == 0:
        return "is of validation, and there is none with trainer.limit_val_batches=0; give 1 or more"
    if name == "val/loss" or measures is None:
        return None
    plain = sets and not isinstance(data.get("path"), Mapping) and not data.get("ptx_path")
    if plain and not any(group == one or group.startswith((f"{one}_", f"replayed_{one}")) for one in sets):
        return f"nothing logs it; there are {', '.join(known)}"
    if f"val/{shown}/{measure}" not in known and not (measure.startswith("pass@") and "pass@2" in measures):
        return f"nothing logs it; there are {', '.join(known)}"
    return None
