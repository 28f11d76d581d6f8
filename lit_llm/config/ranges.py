"""The range of every number in a configuration, checked before torch is imported.

One table, by the last words of a key (``lr``; ``path.seed`` where that is not enough). A number inside a list or a
mapping (``betas``, ``max_prompts.train``) has the range of what it is in. A key of the user's own part that is not here
must be finite, no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included unless ``above`` (``below``) leaves the end out."""

    low: float
    high: float
    above: bool = False
    below: bool = False
    said: str = ""  # in place of the ends

    def fault(self, value: float) -> str | None:
        """What is wrong with a number; None: nothing."""
        if not math.isfinite(value):
            return f"must be a finite number: {self}"
        outside = value < self.low or value > self.high
        if self.said and (outside or (self.above and value == self.low) or (self.below and value == self.high)):
            return f"must be {self.said}"
        if value < self.low or (self.above and value == self.low):
            return f"must be above {_shown(self.low)}" if self.above else f"must be {_shown(self.low)} or more"
        if value > self.high or (self.below and value == self.high):
            return f"must be below {_shown(self.high)}" if self.below else f"must be {_shown(self.high)} or less"
        return None

    def __str__(self) -> str:
        if self.said:
            return self.said
        first = f"above {_shown(self.low)}" if self.above else f"{_shown(self.low)} or more"
        return f"{first} and {'below ' if self.below else ''}{_shown(self.high)}{'' if self.below else ' or less'}"


COUNT, SOME = Range(0, 10**9), Range(1, 10**9)
LONG = Range(1, 10**15)  # tokens and the like
SHARE = Range(0, 1, said="a share from 0 to 1")
PART = Range(0, 1, below=True)  # a share that leaves something over
SEED = Range(0, 2**32 - 1)  # NumPy's
RATE = Range(0, 10, above=True)  # a learning rate
WEIGHT = Range(0, 10**6)
FACTOR = Range(0, 10**6, above=True)
EPSILON = Range(0, 1, above=True)
SECONDS = Range(0, 10**9, above=True)

RANGES: dict[str, Range] = {
    # The run and its Trainer
    "seed": SEED,
    "devices": Range(-1, 10**4), "num_nodes": Range(1, 10**5), "num_threads": Range(1, 4096),
    "max_steps": SOME, "max_epochs": SOME, "max_tokens": LONG, "global_batch_size": SOME,
    "gradient_clip_val": WEIGHT, "val_check_interval": COUNT, "limit_train_batches": COUNT, "limit_val_batches": COUNT,
    "log_every_n_steps": SOME, "checkpoint_every_n_steps": SOME, "overfit_batches": COUNT, "fast_dev_run": COUNT,
    "activation_memory_budget": SHARE, "sanity_steps": Range(-1, 10**9),
    # Backbone and tokenizer
    "vocab_size": Range(1, 2**31 - 1), "depth": Range(1, 10**4), "hidden_size": Range(1, 10**6),
    "intermediate_size": Range(1, 10**7), "num_heads": Range(1, 10**5), "num_kv_heads": Range(1, 10**5),
    "head_dim": Range(1, 10**5), "max_positions": Range(1, 10**8), "sliding_window": Range(1, 10**8),
    "rope_theta": Range(0, 10**12, above=True), "norm_eps": EPSILON, "dropout": PART,
    "initializer_range": Range(0, 10, above=True),
    "rope_scaling.factor": Range(1, 10**6), "low_freq_factor": FACTOR, "high_freq_factor": FACTOR,
    "original_max_positions": SOME,
    # Data
    "max_length": Range(2, 10**8), "ptx_max_length": Range(2, 10**8), "max_prompt_length": Range(1, 10**8),
    "micro_batch_size": Range(1, 10**6), "ptx_micro_batch_size": Range(1, 10**6), "num_workers": Range(0, 1024),
    "validation_fraction": PART, "test_fraction": PART,
    "max_error_rate": SHARE, "replay_ratio": PART, "annotator_weights": WEIGHT, "attacks": SHARE,
    "min_severity": Range(1, 3),
    # Weights of sources in {path: weight}; a number that is a path itself is a folder's name
    "path": FACTOR, "replay_path": FACTOR, "ptx_path": FACTOR,
    # Optimizers and schedules
    "lr": RATE, "muon_lr": RATE, "adherence_lr": RATE, "weight_decay": Range(0, 100), "momentum": PART,
    "betas": PART, "eps": EPSILON, "newton_schulz_steps": Range(1, 5),
    "warmup_steps": COUNT, "warmup_ratio": SHARE, "min_lr_ratio": SHARE, "start_lr_ratio": SHARE,
    "decay_ratio": EPSILON,
    # Losses
    "beta": Range(0, 10**4, above=True), "label_smoothing": Range(0, 0.5, below=True), "lambda_": WEIGHT,
    "loss.gamma": WEIGHT, "centering": WEIGHT, "loss.margin": WEIGHT, "z_loss": Range(0, 100),
    "desirable_weight": FACTOR, "undesirable_weight": FACTOR, "positive_weight": FACTOR, "attack_weight": WEIGHT,
    "neftune_noise_alpha": Range(0, 10**4),
    # Adapters
    "lora_rank": Range(0, 10**5), "lora_alpha": FACTOR, "lora_dropout": PART,
    # Reward models
    "normalize_batches": COUNT, "adherence_shape": Range(1, 10**6, above=True), "adherence_rate": FACTOR,
    "max_comparisons": SOME, "floor_comparisons": COUNT, "probe_prompts": COUNT, "min_lead": Range(-1, 1),
    "doubt": Range(0, 100), "doubt_midway": Range(0, 100), "longest": SOME,
    "limit_empty": SHARE, "limit_long": SHARE, "limit_repeated": SHARE, "limit_shuffled": SHARE,
    "limit_sentinels": SHARE, "limit_gibberish": SHARE, "limit_constant": SHARE,
    # Policies
    "kl_coef": WEIGHT, "clip_range": FACTOR, "clip_range_high": FACTOR, "delta": Range(1, 10**6, above=True),
    "value_clip_range": FACTOR, "vf_coef": WEIGHT, "gamma": SHARE,
    "lam": SHARE, "epochs": Range(1, 10**4), "minibatches": Range(1, 10**6), "max_new_tokens": SOME,
    "temperature": Range(0, 100), "stage.temperature": Range(0, 100, above=True),
    "missing_eos_penalty": WEIGHT, "max_grad_norm": FACTOR, "value_lr_ratio": WEIGHT, "target_kl": FACTOR,
    "adaptive_kl_target": FACTOR, "adaptive_kl_horizon": SOME, "ptx_coef": WEIGHT,
    "reward_validation_every_n_steps": SOME,
    "end_ids": Range(0, 2**31 - 1), "group_size": Range(2, 10**5), "eps_low": PART, "eps_high": WEIGHT,
    "success_at": Range(-(10**9), 10**9), "validation_samples": Range(1, 10**5),
    # Rewards
    "batch_size": Range(1, 10**6), "std_coef": WEIGHT, "parts.weight": Range(-(10**6), 10**6), "tolerance": WEIGHT,
    "least": COUNT, "most": COUNT, "margin": COUNT, "seconds": SECONDS,
    # Callbacks and loggers
    "every_n_steps": SOME, "every_minutes": SECONDS, "keep": Range(1, 10**6), "max_in_a_row": SOME, "patience": SOME,
    "samples.count": SOME,
    "length_change": Range(1, 10**6, above=True), "eos_drop": EPSILON,
    "spread_change": Range(1, 10**6, above=True),
    "every_seconds": Range(0, 10**9), "refresh_seconds": Range(0, 10**9), "peak_tflops": FACTOR,
    "max_queue": SOME, "flush_secs": SOME, "flush_logs_every_n_steps": SOME,
    # Evaluations and pipelines
    "max_items": SOME, "heldout_prompts": COUNT, "n": COUNT, "prompts": SOME, "k": Range(2, 10**4), "max_prompts": SOME,
    "annotators_per_prompt": Range(1, 10**6), "enough": SOME, "overlap": SOME, "poll_seconds": SECONDS,
}  # fmt: skip

NAMES = ("path", "replay_path", "ptx_path")  # Hydra reads a file or folder named 2024 as a number


def range_of(key: Sequence[str]) -> Range | None:
    """The range at a key's parts; None: only that the number is finite is asked."""
    for end in range(len(key), 0, -1):  # outwards: a number in a mapping has the range of the mapping
        last = key[end - 1]
        for outer in reversed(key[: end - 1]):
            if (found := RANGES.get(f"{outer}.{last}")) is not None:
                return found
        if (found := RANGES.get(last)) is not None:
            return found
    return None


def numbers(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """(parts of its key, number) of every number in plain containers; those in a list have the list's key."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from numbers(item, (*key, str(name)))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item, key)
    elif isinstance(value, int | float) and not isinstance(value, bool) and not (key and key[-1] in NAMES):
        yield key, value


def out_of_range(values: Any) -> Iterator[str]:
    """A line for every number that is not finite or not in its range."""
    for key, value in numbers(values):
        known = range_of(key)
        fault = known.fault(value) if known is not None else None
        if fault is None and not math.isfinite(value):
            fault = "must be a finite number"
        if fault is not None:
            yield f"{'.'.join(key)}={value}: {fault}"


def _shown(value: float) -> str:
    return f"{value:g}" if abs(value) < 10**6 or value != int(value) else f"{int(value):,}"
