"""Rates, lengths and batches for a model that was pretrained elsewhere, by its number of weights and by LoRA or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lit_llm.config import schema
from lit_llm.config.conf_files import conf_folder
from lit_llm.config.given_values import Given
from lit_llm.config.pretrained_model import Model, folder_named, known
from lit_llm.runtime import devices

ANCHORS = (135e6, 7e9)  # weights that a row's two rates are for

ROW = 1024  # tokens; where the context has them
PROMPT, ANSWER, SAMPLE = 512, 256, 128  # tokens; GSM8K: 64 hold 28% of the reference answers, 200 hold 98%
ITEMS = 100  # of every held-out set, before and after: longer ones than the small models'
VALIDATED = 4  # batches of prompts that a validation answers
LARGE = 1e9  # weights from which half as much, or less, is computed at once


@dataclass(frozen=True)
class Row:
    """What one stage takes.

    Args:
        full: the learning rates at ``ANCHORS`` when all weights are trained.
        lora: the same where only adapters are, or a head: about ten times as much (Schulman et al. 2025, LoRA Without
            Regret).
        micro: rows, comparisons, completions or prompts computed at once below ``LARGE`` weights, and from there on.
        batch: of them a step; None: a rollout is one micro-batch (and ``micro`` its prompts).
        steps: None: as the configuration says.
    """

    full: tuple[float, float]
    lora: tuple[float, float]
    micro: tuple[int, int]
    batch: int | None
    steps: int | None = None


# Sources: "measured" is SmolLM2-135M-Instruct, here, over a few steps; the rest are others' recipes, not tried here.
TABLE: Mapping[str, Row] = {  # by the class of the stage
    # Measured: at 1e-4 the domain is learned and general text kept, Muon's 2e-3 forgets 17% of it. 7B: Biderman et al.
    # 2024 (LoRA learns less and forgets less), full 1e-5 to 5e-5, adapters 2e-4.
    "ContinuedPretraining": Row((1e-4, 2e-5), (2e-4, 2e-4), (2, 1), 8, 100),
    # Measured: 3e-4 learns dialogues in 8 steps and leaves general text as it is. SmolLM2's own: 3e-4 (1.7B) to 1e-3
    # (135M) with 128 rows of 8,192. 7B: Llama 2, Tulu 2: 2e-5. QLoRA: 2e-4.
    "FineTuning": Row((3e-4, 2e-5), (2e-4, 2e-4), (2, 1), 8, 100),
    "InstructionTuning": Row((3e-4, 2e-5), (2e-4, 2e-4), (2, 1), 8, 100),
    # BERT's grid for classifiers of 110M to 340M: 2e-5 to 5e-5.
    "FlagClassification": Row((5e-5, 1e-5), (3e-4, 1e-4), (8, 2), 32),
    # Measured: at 2e-5 20 steps of 12 rankings learn (accuracy 0.65, "longer wins" 0.59). InstructGPT 6B: 9e-6; Tulu 3
    # 8B: 3e-6; TRL's example at 0.5B: 1e-5, adapters 1e-4.
    "RewardModeling": Row((2e-5, 5e-6), (2e-4, 5e-5), (2, 1), 32),
    # SmolLM2's own: 1e-6 (128 rows, two epochs of 60,000); Zephyr, Tulu 3: 5e-7 (7B, 8B), adapters 5e-6.
    "PreferenceOptimization": Row((2e-6, 5e-7), (2e-5, 5e-6), (2, 1), 32),
    # Measured: at 1e-5 8 steps of 32 answers begin to tell good from bad (AUC 0.62 ± 0.05). TRL: 5e-7 to 5e-6.
    "KTO": Row((1e-5, 5e-7), (1e-4, 5e-6), (8, 2), 32),
    # Measured: at 1e-5 12 rollouts of 32 answers learn. TRL's at 1B: 3e-6; Tulu 3 8B: 1e-7 to 3e-7 for many more steps.
    "PPO": Row((1e-5, 1e-6), (1e-4, 1e-5), (16, 16), None),
    # Measured: at 1e-5, with adapters at 1e-4, 8 rollouts of 32 answers learn over three seeds, and general text stays
    # as it is; a tenth of these rates does not show in so few. 7B: TRL's 1e-6, adapters 1e-5.
    "GRPO": Row((1e-5, 1e-6), (1e-4, 1e-5), (8, 8), None, 50),
}
TABLE = {**TABLE, "Pretraining": TABLE["ContinuedPretraining"]}  # pretraining of a trained model is continued


# What it says of a run


def rate(anchors: tuple[float, float], weights: int) -> float:
    """Between the anchors on a straight line of logarithms, beyond them as at the nearer one; two digits."""
    low, high = (math.log(each) for each in ANCHORS)
    share = min(1.0, max(0.0, (math.log(max(weights, 1)) - low) / (high - low)))
    found = math.exp((1 - share) * math.log(anchors[0]) + share * math.log(anchors[1]))
    return float(f"{found:.1e}")


def values_for(
    run: DictConfig, prefix: str, row: Row, model: Model, trained: str, given: Given
) -> Iterator[tuple[str, Any]]:
    """(key, value) of all that the run has and the user did not give."""
    yield from not_given(run, prefix, _optimizer(run, prefix, row, model, trained, given), given)
    yield from not_given(run, prefix, _lengths(run, prefix, model, given), given)
    yield from not_given(run, prefix, _batches(run, prefix, row, model, given), given)
    limits = ("max_steps", "max_epochs", "max_tokens", "max_time", "fast_dev_run")
    if row.steps is not None and not any(given.has(f"{prefix}trainer.{key}") for key in limits):
        interval = {"trainer.val_check_interval": row.steps // 4}
        yield from not_given(run, prefix, {"trainer.max_steps": row.steps, **interval}.items(), given)


def not_given(cfg: DictConfig, prefix: str, values: Any, given: Given) -> Iterator[tuple[str, Any]]:
    for key, value in values:
        if _exists(cfg, key) and not given.has(prefix + key):
            yield key, value


def _exists(cfg: DictConfig, key: str) -> bool:
    node, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, node) if node else cfg
    return name == "optimizer" or (isinstance(parent, DictConfig) and name in parent)


def _optimizer(
    run: DictConfig, prefix: str, row: Row, model: Model, trained: str, given: Given
) -> Iterator[tuple[str, Any]]:
    """AdamW, unless the user chose: Muon's update is scaled to AdamW's size and takes the same rate."""
    found = rate(row.full if trained == "all" else row.lora, model.weights)
    known_keys = set(adamw())
    chosen = f"{prefix}optimizer" in given.groups or not set(given.within(f"{prefix}optimizer")) <= known_keys
    if not chosen and run.optimizer.get("_target_") != adamw()["_target_"]:
        yield "optimizer", "adamw"
    yield "optimizer.lr", found
    if chosen:
        yield "optimizer.muon_lr", found


def _lengths(run: DictConfig, prefix: str, model: Model, given: Given) -> Iterator[tuple[str, Any]]:
    """Never more than the context of the model, and of what scores its answers, holds."""
    yield "data.max_length", min(ROW, model.context)
    answer = answer_length(model)
    if "max_new_tokens" in run.stage:
        answer = answer_length(_shortest(run, model))
        yield "stage.max_new_tokens", answer
        answer = _count(run.stage.max_new_tokens, answer) if given.has(f"{prefix}stage.max_new_tokens") else answer
        yield "data.max_prompt_length", max(1, min(PROMPT, _shortest(run, model).context - answer))
    yield "evaluation.max_new_tokens", answer
    yield "evaluation.batch_size", at_once(model)
    yield "evaluation.max_items", ITEMS
    if run.callbacks.get("samples") is not None:
        yield "callbacks.samples.max_new_tokens", min(SAMPLE, answer)
    if run.data.get("ptx_path") is not None:
        yield "data.ptx_max_length", min(ROW, model.context)
        yield "data.ptx_micro_batch_size", 2 if model.weights < LARGE else 1


def _shortest(run: DictConfig, model: Model) -> Model:
    """The policy, or a reward model that reads its answers and has the shorter context."""
    judges = [run.stage.get(key) for key in ("reward", "gold")]
    values = [OmegaConf.to_container(one, resolve=True) for one in judges if OmegaConf.is_config(one)]
    texts = [text for _, text in schema.texts(values)]
    folders = [text for text in texts if text and len(text) < 4096 and "\0" not in text]
    found = [other for text in folders if (other := known(folder_named(text))) is not None]
    return min([model, *found], key=lambda each: each.context)


def answer_length(model: Model) -> int:
    return max(1, min(ANSWER, model.context // 2))


def at_once(model: Model) -> int:
    """Answers written side by side: each holds keys and values of all its tokens."""
    return 16 if model.weights < LARGE else 8


def _batches(run: DictConfig, prefix: str, row: Row, model: Model, given: Given) -> Iterator[tuple[str, Any]]:
    """Micro-batches that fit, and a step's rows as a whole number of them on every device."""
    micro = row.micro[model.weights >= LARGE]
    if row.batch is None:
        yield "data.micro_batch_size", micro
        yield "stage.micro_batch_size", 8 if model.weights < LARGE else 2
        yield "trainer.limit_val_batches", VALIDATED
        return
    processes, batch = devices.shares(run.trainer), row.batch
    total = run.trainer.global_batch_size if given.has(f"{prefix}trainer.global_batch_size") else None
    if given.has(f"{prefix}data.micro_batch_size"):
        micro = _count(run.data.micro_batch_size, micro)
    elif total is not None:
        micro = next((each for each in range(micro, 1, -1) if total % (each * processes) == 0), 1)
    yield "data.micro_batch_size", micro
    yield "trainer.global_batch_size", micro * processes * max(1, round(batch / (micro * processes)))


def _count(value: Any, otherwise: int) -> int:
    """What the user gave, where it is a count at all: the validation refuses the rest."""
    return value if isinstance(value, int) and value >= 1 else otherwise


def adamw() -> dict[str, Any]:
    """The optimizer of every row, as conf/ has it."""
    found: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "optimizer/adamw.yaml"))
    return dict(found)
