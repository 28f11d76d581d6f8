"""The options of what collects rankings, and of the rule as a reward: what stands below ``annotation.`` in a pipeline's
configuration, and what a reward named after the rule takes (nothing)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lit_llm.errors import UserError
from lit_llm.runtime.devices import Device
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import ROWS, SEED, SOME, TEMPERATURE, Range


@dataclass(frozen=True, kw_only=True)
class RuleOptions(Options):
    TARGET: ClassVar[str] = "lit_llm.feedback.rule.reward"
    GROUP: ClassVar[str] = "reward"
    GIVEN: ClassVar[tuple[str, ...]] = ("prompts", "completions")


@dataclass(frozen=True, kw_only=True)
class AnnotationOptions(Options):
    """What simulated annotators and people have in common."""

    GROUP: ClassVar[str] = "annotation"
    GIVEN: ClassVar[tuple[str, ...]] = ("output",)

    cache_dir: str = "outputs/cache"  # where the installed documentation is kept


@dataclass(frozen=True, kw_only=True)
class SimulatedOptions(AnnotationOptions):
    """Answers sampled, and ranked by simulated annotators: a visible rule and noise."""

    TARGET: ClassVar[str] = "lit_llm.feedback.simulated.collect"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "k": Range(2, 10**4), "temperature": TEMPERATURE, "max_new_tokens": SOME, "max_prompts": SOME,
        "annotators_per_prompt": ROWS, "seed": SEED, "batch_size": ROWS,
    }  # fmt: skip

    model: str  # a model folder
    prompts: str | Sequence[str] | Mapping[str, Any]  # as data.path of the Prompts data
    k: int = 4  # answers to each prompt
    temperature: float = 1.0  # of the sampling
    max_new_tokens: int = 48  # longest answer
    max_prompts: Mapping[str, int] | int | None = None  # of each split, or of all of them, chosen by the seed
    annotators_per_prompt: int | None = None  # None: all of them; else so many, in turn
    seed: int = 0  # of the sampling, the choice of prompts and the annotators' noise
    batch_size: int = 128  # prompts answered at once
    bf16: bool = False  # sample in it
    device: Device = "auto"  # where the model answers; auto: on a GPU where there is one
    ignore_keys: Sequence[str] = ()  # as data.ignore_keys of the Prompts data
    progress: bool = True  # say how far it is

    def check(self) -> None:
        if self.k < 2:
            raise UserError(f"annotation.k={self.k}: a ranking needs at least 2 answers")
        super().check()


@dataclass(frozen=True, kw_only=True)
class PeopleOptions(AnnotationOptions):
    """Rankings of people, copied as they are now."""

    TARGET: ClassVar[str] = "lit_llm.feedback.people.collect"

    path: str  # a ranking project (FILE.db or a URL), a file or folder of rankings
    model: str | None = None  # whose answers were ranked, for the lineage
