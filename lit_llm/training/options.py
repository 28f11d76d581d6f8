"""The options of loggers: what stands below ``logger.`` in a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lit_llm.runtime.options import Options


@dataclass(frozen=True, kw_only=True)
class LoggerOptions(Options):
    """What all loggers have: nothing yet."""

    GROUP: ClassVar[str] = "logger"
    GIVEN: ClassVar[tuple[str, ...]] = ("folder",)


@dataclass(frozen=True, kw_only=True)
class TensorBoardOptions(LoggerOptions):
    TARGET: ClassVar[str] = "lit_llm.training.loggers.tensorboard"

    max_queue: int = 100  # numbers that wait in memory before they are written
    flush_secs: int = 10  # and for how long at most


@dataclass(frozen=True, kw_only=True)
class CSVOptions(LoggerOptions):
    TARGET: ClassVar[str] = "lit_llm.training.loggers.csv"

    flush_logs_every_n_steps: int = 100  # optimizer steps (rollouts of PPO and GRPO) between writes
