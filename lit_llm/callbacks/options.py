"""The options of every callback: what stands below ``callbacks.NAME.`` in a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lit_llm.errors import UserError
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import EPSILON, FACTOR, SECONDS, SEED, SOME, TEMPERATURE, Range

POLICIES = ("skip", "stop")


@dataclass(frozen=True, kw_only=True)
class CallbackOptions(Options):
    """What all callbacks have: nothing yet."""

    GROUP: ClassVar[str] = "callbacks"


@dataclass(frozen=True, kw_only=True)
class CheckpointsOptions(CallbackOptions):
    TARGET: ClassVar[str] = "lit_llm.callbacks.checkpoints.Checkpoints"
    KEY: ClassVar[str] = "callbacks.checkpoints"
    RANGES: ClassVar[Mapping[str, Range]] = {"every_n_steps": SOME, "every_minutes": SECONDS, "keep": Range(1, 10**6)}

    every_n_steps: int | None = None  # optimizer steps (rollouts of PPO and GRPO); None: none on the way
    every_minutes: float | None = None  # the same by the clock, beside every_n_steps; None: by steps alone
    # How many of the newest to keep; with two or more a damaged one has another before it. Only those that verify are
    # counted and removed: one that cannot be read is nobody's to delete.
    keep: int = 2
    at_end: bool = True  # also write one when training ends
    # A logged number such as val/loss: the weights with the least are kept in checkpoints/best.ckpt; None: no.
    monitor: str | None = None
    # Training goes on from a copy of the state while a checkpoint is written: the host's memory holds that copy (of a
    # sharded run each process its part), and a write that fails ends the run a step later.
    asynchronous: bool = False


@dataclass(frozen=True, kw_only=True)
class NumericsOptions(CallbackOptions):
    TARGET: ClassVar[str] = "lit_llm.callbacks.numerics.Numerics"
    KEY: ClassVar[str] = "callbacks.numerics"
    RANGES: ClassVar[Mapping[str, Range]] = {"max_in_a_row": SOME}

    on_bad_update: str = "skip"  # or stop: what follows a loss or gradient that is not finite
    max_in_a_row: int = 10  # skip also ends the run after so many without a good one between: it has diverged

    def check(self) -> None:
        super().check()
        self.one_of("on_bad_update", POLICIES)


@dataclass(frozen=True, kw_only=True)
class OveroptimizationOptions(CallbackOptions):
    TARGET: ClassVar[str] = "lit_llm.callbacks.overoptimization.Overoptimization"
    KEY: ClassVar[str] = "callbacks.overoptimization"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "patience": SOME, "length_change": Range(1, 10**6, above=True), "eos_drop": EPSILON,
        "spread_change": Range(1, 10**6, above=True),
    }  # fmt: skip

    # End the run when the gold reward fell so many times in a row while the proxy rose; None: never. It takes a gold
    # reward (stage.gold) to stop. A fall is one of more than a standard error, which is that of the change prompt by
    # prompt; any, where the stage keeps no gold by prompt.
    patience: int | None = 2
    length_change: float = 1.5  # warn when answers are so many times longer or shorter than at the first validation
    eos_drop: float = 0.2  # warn when the share of answers that end falls by so much
    spread_change: float = 3.0  # warn when the standard deviation of the scores in training changes by this factor


@dataclass(frozen=True, kw_only=True)
class ProgressOptions(CallbackOptions):
    TARGET: ClassVar[str] = "lit_llm.callbacks.progress.Progress"
    KEY: ClassVar[str] = "callbacks.progress"
    RANGES: ClassVar[Mapping[str, Range]] = {"every_seconds": Range(0, 10**9), "refresh_seconds": Range(0, 10**9)}

    every_seconds: float = 15.0  # between lines, where the output is no terminal
    refresh_seconds: float = 0.3  # between redraws of the bar in a terminal


@dataclass(frozen=True, kw_only=True)
class SamplesOptions(CallbackOptions):
    TARGET: ClassVar[str] = "lit_llm.callbacks.samples.Samples"
    KEY: ClassVar[str] = "callbacks.samples"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "every_n_steps": SOME, "max_new_tokens": SOME, "temperature": TEMPERATURE, "seed": SEED, "count": SOME,
    }  # fmt: skip

    # What to go on from; None: so many (count) of the validation data's own, or of the training data's where nothing is
    # held out (the beginning of a document, a question as the data's template writes it).
    prompts: Sequence[str] | None = None
    every_n_steps: int | None = 100  # optimizer steps (rollouts of PPO and GRPO); None: only when training ends
    chat: bool = False  # the texts of prompts are a user's questions, answered through the chat template
    max_new_tokens: int = 48  # of a sample
    temperature: float = 0.8  # of the sampling
    seed: int = 0  # of the sampling
    count: int = 3  # how many of the data's own

    def check(self) -> None:
        super().check()
        if self.prompts is not None and not (self.prompts and all(self.prompts)):
            raise UserError(
                f"callbacks.samples.prompts: {list(self.prompts)}; give one text or more, none of them empty, or null "
                "for the data's own"
            )


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions(CallbackOptions):
    TARGET: ClassVar[str] = "lit_llm.callbacks.throughput.Throughput"
    KEY: ClassVar[str] = "callbacks.throughput"
    RANGES: ClassVar[Mapping[str, Range]] = {"peak_tflops": FACTOR}

    mfu: bool = True  # also measure the share of the device's peak, where the model knows its operations per token
    peak_tflops: float | None = None  # of the device, 1e12 operations a second; None: from a table of GPUs, or measured
