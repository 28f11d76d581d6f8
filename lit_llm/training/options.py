"""The options of loggers: what stands below ``logger.`` in a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import SOME, Range


@dataclass(frozen=True, kw_only=True)
class LoggerOptions(Options):
    """What all loggers have: nothing yet."""

    GROUP: ClassVar[str] = "logger"
    GIVEN: ClassVar[tuple[str, ...]] = ("folder",)


@dataclass(frozen=True, kw_only=True)
class TensorBoardOptions(LoggerOptions):
    TARGET: ClassVar[str] = "lit_llm.training.loggers.tensorboard"
    RANGES: ClassVar[Mapping[str, Range]] = {"max_queue": SOME, "flush_secs": SOME}

    max_queue: int = 100  # numbers that wait in memory before they are written
    flush_secs: int = 10  # and for how long at most


@dataclass(frozen=True, kw_only=True)
class CSVOptions(LoggerOptions):
    TARGET: ClassVar[str] = "lit_llm.training.loggers.csv"
    RANGES: ClassVar[Mapping[str, Range]] = {"flush_logs_every_n_steps": SOME}

    flush_logs_every_n_steps: int = 100  # optimizer steps (rollouts of PPO and GRPO) between writes


@dataclass(frozen=True, kw_only=True)
class WandbOptions(LoggerOptions):
    TARGET: ClassVar[str] = "lit_llm.training.loggers.wandb"

    project: str = "lit-llm"  # where the run is shown
    entity: str | None = None  # a user or a team; None: the account's own
    group: str | None = None  # of runs that belong together
    mode: str = "online"  # offline: into the run's folder, wandb sync sends it later; disabled


@dataclass(frozen=True, kw_only=True)
class MLflowOptions(LoggerOptions):
    TARGET: ClassVar[str] = "lit_llm.training.loggers.mlflow"

    experiment: str = "lit-llm"  # where the run is shown
    # A server, or sqlite:///FILE; None: MLFLOW_TRACKING_URI, else mlflow.db where the command is started.
    tracking_uri: str | None = None
