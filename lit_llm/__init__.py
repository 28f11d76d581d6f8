"""LitLLM: build a custom LLM through every stage that large labs use, on a laptop or a cluster.

The components by the names that the README uses, imported when they are asked for: ``from lit_llm import Tokenizer``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = {
    "backbone.config": ("BackboneConfig", "from_depth"),
    "backbone.huggingface": ("load_language_model", "load_score_model", "save_model"),
    "backbone.models": ("LanguageModel", "ScoreModel"),
    "data.domain_corpora": ("DomainCorpora",),
    "data.instructions": ("Instructions",),
    "data.labelled_answers": ("LabelledAnswers",),
    "data.preferences": ("Preferences",),
    "data.prompts": ("Prompts",),
    "data.raw_text": ("RawText",),
    "data.task_pairs": ("TaskPairs",),
    "errors": ("UserError",),
    "generation.sampling": ("generate", "respond"),
    "optim.adamw": ("adamw",),
    "optim.muon": ("muon_adamw",),
    "optim.schedules": ("constant", "cosine", "linear", "wsd"),
    "records": ("Message",),
    "rewards.function": ("FunctionReward",),
    "rewards.learned": ("LearnedReward",),
    "rewards.verifiers": ("ExactAnswer", "Format", "Length", "WordCount"),
    "rewards.weighted": ("WeightedSum",),
    "stages.base": ("Stage",),
    "stages.continued_pretraining": ("ContinuedPretraining",),
    "stages.fine_tuning": ("FineTuning",),
    "stages.flag_classification": ("FlagClassification",),
    "stages.grpo": ("GRPO",),
    "stages.instruction_tuning": ("InstructionTuning",),
    "stages.kto": ("KTO",),
    "stages.ppo": ("PPO",),
    "stages.preference_optimization": ("PreferenceOptimization",),
    "stages.pretraining": ("Pretraining",),
    "stages.reward_modeling": ("RewardModeling",),
    "text.bpe": ("train_bpe",),
    "text.merges": ("learn_merges",),
    "text.tokenizer": ("Tokenizer", "load_tokenizer"),
}
HOMES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}
HOMES["DPO"] = HOMES["PreferenceOptimization"]  # whose loss is DPO's unless another is given
__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__} has no {name}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(HOMES[name]), "PreferenceOptimization" if name == "DPO" else name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
