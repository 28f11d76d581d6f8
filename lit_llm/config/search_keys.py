"""The options of searches: ``hydra.sweeper`` with ``hydra/sweeper=optuna``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lit_llm.errors import UserError
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import SEED, Range

SAMPLER = {"_target_": "optuna.samplers.TPESampler"}
PRUNER = {"_target_": "optuna.pruners.MedianPruner"}


@dataclass(frozen=True, kw_only=True)
class OptunaOptions(Options):
    TARGET: ClassVar[str] = "hydra_plugins.lit_llm.OptunaSweeper"
    GROUP: ClassVar[str] = "hydra.sweeper"
    RANGES: ClassVar[Mapping[str, Range]] = {
        "n_trials": Range(1, 10**6), "at_once": Range(1, 10**4), "seed": SEED,
    }  # fmt: skip

    # The sweep's folder is called so, and a study of that name is gone on with; None: a new one, called after the time.
    study_name: str | None = None
    # Where trials are kept: a database's URL (sqlite:///FILE), or FILE.log, Optuna's journal, for disks of a network;
    # None: study.db in the sweep's folder.
    storage: str | None = None
    n_trials: int = 20  # of the study, those of earlier commands counted
    at_once: int = 1  # trials proposed together: with hydra/launcher=slurm they run at the same time, as one array
    seed: int = 0  # of the sampler; each trial's proposal is drawn with its own, so that a resumed study goes on alike
    sampler: Mapping[str, Any] = field(default_factory=SAMPLER.copy)  # a class of optuna.samplers, and its options
    # A class of optuna.pruners, and its options: ends trials that are behind others at the same step; None: none.
    pruner: Mapping[str, Any] | None = field(default_factory=PRUNER.copy)
    # The logged number of each validation that trials are pruned by, less being better (-NAME: more is); None: none.
    monitor: str | None = "val/loss"
    params: Mapping[str, Any] | None = None  # what is searched, by key, beside what the command line says

    def check(self) -> None:
        for name in ("n_trials", "at_once", "seed"):
            if type(getattr(self, name)) is not int:
                raise self.wrong(name, "must be a whole number")
        super().check()
        for name in ("study_name", "storage", "monitor"):
            if not isinstance(getattr(self, name), str | None):
                raise self.wrong(name, "must be a text, or null")
        for name, place in (("sampler", "optuna.samplers."), ("pruner", "optuna.pruners.")):
            node = getattr(self, name)
            if node is None and name == "pruner":
                continue
            if not isinstance(node, Mapping):
                raise self.wrong(name, f"must be options; hydra.sweeper.{name}._target_={place}NAME is another one")
            if not str(node.get("_target_")).startswith(place):
                raise UserError(f"{self.key()}.{name}._target_={node.get('_target_')}: must be a class of {place[:-1]}")
        if not isinstance(self.params, Mapping | None):
            raise self.wrong("params", "must be a mapping of keys to what is searched, or null")
        if self.monitor is not None and not self.monitor.removeprefix("-").startswith("val/"):
            raise self.wrong("monitor", "must be a number that validation logs, such as val/loss, or null")
