"""Watches a reward being optimised: proxy against gold over sqrt(KL), and a stop when they part.

Gao, Schulman and Hilton 2023, arXiv:2210.10760.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from lit_llm.callbacks.options import OveroptimizationOptions
from lit_llm.runtime.atomic_files import write_text
from lit_llm.runtime.distributed import gathered_shares
from lit_llm.runtime.lightning_loops import is_trial, steps_done

log = logging.getLogger("lit_llm")

FILE = "overoptimization.jsonl"
READ = {"proxy": "scores", "gold": "gold", "kl": "kl", "length": "response_length", "eos_rate": "eos_rate"}
SPREAD = "objective/scores_std"
Row = dict[str, Any]


class Overoptimization(L.Callback):
    """After every validation of a policy: a line in ``overoptimization.jsonl`` of the run folder, curves in TensorBoard
    over round(1000 sqrt(KL)), and warnings. It does nothing for stages that validate no ``scores`` and ``kl``.

    Options: ``OveroptimizationOptions``.
    """

    Options: ClassVar[type[OveroptimizationOptions]] = OveroptimizationOptions

    def __init__(self, options: OveroptimizationOptions | None = None, **values: Any) -> None:
        self.options = OveroptimizationOptions.of(options, values)
        self.rows: list[Row] = []
        self._gold: dict[str, Tensor] = {}  # (P,) of the validation before, by source
        self._warned: set[str] = set()
        self._writer: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """A run that ended so does not go on when it is resumed, unless ``patience`` is another now."""
        sources = {row["source"] for row in self.rows if row["step"] == steps_done(trainer)}
        if any(self._overoptimized(source) for source in sources):
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        step = steps_done(trainer)
        found = list(rows_of(trainer.callback_metrics, step))
        self._add_errors(found, by_source(getattr(pl_module, "gold_by_prompt", {}), trainer.world_size))
        self.rows = [row for row in self.rows if row["step"] < step] + found
        for row in found:
            self._warn(row)
        if trainer.is_global_zero and found and not is_trial(trainer):
            write_rows(Path(trainer.default_root_dir) / FILE, self.rows)
            self._draw(trainer, found)
        if any(self._overoptimized(row["source"]) for row in found):
            log.warning(
                "step %d: the gold reward fell %d times in a row while the proxy rose; the run ends here "
                "(callbacks.overoptimization.patience=null goes on)",
                *(step, self.options.patience),
            )
            trainer.should_stop = True

    def _add_errors(self, rows: list[Row], gold: Mapping[str, Tensor]) -> None:
        """``gold_change_se`` of each source whose prompts were judged in the validation before too."""
        for row in rows:
            before, now = self._gold.get(row["source"]), gold.get(row["source"])
            if before is not None and now is not None and len(before) == len(now):
                change = (now - before)[torch.isfinite(now - before)]
                if len(change) > 1:
                    row["gold_change_se"] = float(change.std()) / math.sqrt(len(change))
        self._gold = dict(gold)

    def _overoptimized(self, source: str) -> bool:
        """Whether gold fell and proxy rose in each of the last ``patience`` steps between validations."""
        mine = [row for row in self.rows if row["source"] == source and row.get("gold") is not None]
        if self.options.patience is None or len(mine) <= self.options.patience:
            return False
        last = mine[-self.options.patience - 1 :]
        return all(_fell(a, b) and b["proxy"] > a["proxy"] for a, b in pairwise(last))

    def _warn(self, row: Row) -> None:
        """Once for each sign, against the first validation."""
        first = next(one for one in self.rows if one["source"] == row["source"])
        for name, factor in (("length", self.options.length_change), ("spread", self.options.spread_change)):
            before, now = first.get(name), row.get(name)
            if before and now is not None and not before / factor <= now <= before * factor:
                what = {"length": "tokens an answer", "spread": "is the spread of the scores"}[name]
                self._say(name, f"{now:.3g} {what}, {before:.3g} at first")
        before, now = first.get("eos_rate"), row.get("eos_rate")
        if before is not None and now is not None and before - now >= self.options.eos_drop:
            self._say("eos_rate", f"{now:.0%} of the answers end, {before:.0%} at first")

    def _say(self, name: str, what: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            log.warning("is the reward being exploited? %s", what)

    def _draw(self, trainer: L.Trainer, rows: list[Row]) -> None:
        """Scalars of their own run, whose steps are thousandths of sqrt(KL)."""
        logger = next((one for one in trainer.loggers if isinstance(one, TensorBoardLogger)), None)
        if logger is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(Path(logger.log_dir) / "overoptimization"))
        for row in rows:
            at = round(1000 * math.sqrt(max(0.0, row["kl"])))
            for name in ("proxy", "gold"):
                if row.get(name) is not None:
                    self._writer.add_scalar(f"overoptimization/{row['source']}/{name}", row[name], at)
        self._writer.flush()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:  # noqa: ARG002
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def state_dict(self) -> dict[str, Any]:
        gold = {source: values.tolist() for source, values in self._gold.items()}
        return {"rows": self.rows, "warned": sorted(self._warned), "gold": gold}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self._warned = list(state_dict["rows"]), set(state_dict["warned"])
        kept = state_dict.get("gold", {})
        self._gold = {source: torch.tensor(values, dtype=torch.float64) for source, values in kept.items()}


def _fell(before: Row, after: Row) -> bool:
    """Whether gold is lower by more than the error of the change."""
    return bool(before["gold"] - after["gold"] > after.get("gold_change_se", 0.0))


def by_source(values: Mapping[str, Sequence[Tensor]], world_size: int) -> dict[str, Tensor]:
    """Each source's batches of every rank as one vector, in the same order every time."""
    everyone = gathered_shares(values, world_size)
    names = dict.fromkeys(name for one in everyone for name in one)
    return {name: torch.cat([part.double() for one in everyone for part in one.get(name, [])]) for name in names}


def rows_of(metrics: Mapping[str, Any], step: int) -> list[Row]:
    """{"step", "source", "kl", "proxy", "gold" ...} for every source that was validated with scores and a KL."""
    found = []
    for name in metrics:
        if name.startswith("val/") and name.endswith("/kl") and f"{name[:-2]}scores" in metrics:
            values = {key: metrics[name[:-2] + tag] for key, tag in READ.items() if name[:-2] + tag in metrics}
            if SPREAD in metrics:
                values["spread"] = metrics[SPREAD]
            finite = {key: float(value) for key, value in values.items() if math.isfinite(float(value))}
            if {"kl", "proxy"} <= set(finite):
                found.append({"step": step, "source": name[4:-3], **finite})
    return found


def write_rows(path: Path, rows: list[Row]) -> None:
    """One JSON object a line; the file is whole whenever it is read."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
