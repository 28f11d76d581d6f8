"""Flag classification: the chance that people would flag an answer, learned from what they flagged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.models import ScoreModel
from lit_llm.backbone.score_settings import check_can_be_saved
from lit_llm.data.completion_checks import check_fits
from lit_llm.errors import UserError
from lit_llm.evaluation.classification import best_threshold, labels
from lit_llm.evaluation.flags import estimates
from lit_llm.records import LabelledBatch
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.distributed import gathered_shares
from lit_llm.stages.base import Stage
from lit_llm.stages.initial_model import Policy, initial_model
from lit_llm.stages.options import FlagOptions

LABEL, FILE = "flagged", "flags.json"


class FlagClassification(Stage):
    """Trains a ``ScoreModel`` whose score, at an answer's last token, is the logit of "people flag this".

    Binary cross-entropy, w y log s(z) + (1 - y) log(1 - s(z)) (King and Zeng 2001, eq. 4: w weighs the flagged). After
    training the threshold of the largest balanced accuracy on validation is kept with the model (Youden 1950): it does
    not depend on how many answers are flagged, which is what reinforcement learning changes.

    Args:
        options: ``FlagOptions``.
        model: a language model (the instruction-tuned one), whose transformer is copied and given a head of one logit.
    """

    Options: ClassVar[type[FlagOptions]] = FlagOptions
    name: ClassVar[str] = "flag_classification"
    batch_type: ClassVar[type] = LabelledBatch
    reads_unrelated: ClassVar[bool] = False
    options: FlagOptions
    model: ScoreModel

    def __init__(
        self,
        options: FlagOptions | None = None,
        *,
        model: Policy,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        tokenizer: Any = None,
    ) -> None:
        options = options or self.Options()
        language_model, tokenizer = initial_model(model, tokenizer, self.head, options)
        check_can_be_saved(language_model.config)  # before it is trained
        scored = ScoreModel.from_language_model(language_model)
        scored.label = LABEL
        if not options.lora_rank:  # adapters freeze it
            scored.backbone.requires_grad_(options.trained == "full")
        super().__init__(options, model=scored, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        self.adapt(options, options.lora_dropout)
        self.chosen: dict[str, Any] = {}  # the threshold and what it gives on validation
        weight = options.positive_weight
        self._weight = 1.0 if weight is None or weight == "balanced" else float(weight)
        self._seen: dict[int, list[tuple[Tensor, ...]]] = {}

    def forward(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B,) of right-padded rows (B, T) at their last token; ``lengths`` (B,), None: no row has padding."""
        if lengths is None:
            lengths = torch.full((len(input_ids),), input_ids.shape[1], device=input_ids.device)
        scores: Tensor = self.model(input_ids, lengths)
        return scores

    def loss(self, batch: LabelledBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        return self._sums(batch, self._scores(batch))

    def _scores(self, batch: LabelledBatch) -> Tensor:
        check_fits(batch.completions, self.model.config, "labels")
        return self.model.score_completions(batch.completions)

    def _sums(self, batch: LabelledBatch, logits: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Sums weighted by the annotators' weights, and their sum."""
        positive, weights = batch.labels.float(), batch.weights.float()
        weight = torch.full((), self._weight, device=logits.device)  # filled there: a number of the host's is copied
        losses = F.binary_cross_entropy_with_logits(logits, positive, pos_weight=weight, reduction="none")
        right = (logits.detach() >= 0) == batch.labels
        metrics = {"right": (weights * right).sum(), "base_rate": (weights * positive).sum()}
        return (weights * losses).sum(), weights.sum(), metrics

    def derived(self, totals: dict[str, float]) -> dict[str, float]:
        values = super().derived(totals)
        return {("accuracy_at_half" if name == "right" else name): value for name, value in values.items()}

    # Class weight

    def on_fit_start(self) -> None:
        if self.options.positive_weight == "balanced" and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            flagged = count = 0.0
            for batch in self._batches("train"):
                weights = batch.weights.double()
                flagged, count = flagged + float(weights[batch.labels].sum()), count + float(weights.sum())
            everyone = gathered_shares((flagged, count), self.trainer.world_size)
            flagged, count = (sum(column) for column in zip(*everyone, strict=True))
            if not 0 < flagged < count:
                raise UserError(
                    f"stage.positive_weight=balanced: {flagged:g} of {count:g} answers (weighted) are flagged"
                )
            self._weight = (count - flagged) / flagged

    # Validation: what needs all answers at once

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._seen = {}

    def validation_step(self, batch: LabelledBatch, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        logits = self._scores(batch)
        self._validation[dataloader_idx].add(*self._sums(batch, logits))
        self._seen.setdefault(dataloader_idx, []).append((logits.float().cpu(), batch.labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Adds ``val/<source>/`` threshold (the best one now) and all measures of ``evaluation.flags.estimates``."""
        for index, name in enumerate(self.validation_names()):
            if index in self._seen:
                logits, positive = self._gathered(self._seen[index])
                values = measures(logits, positive)
                del values["base_rate"]  # it is logged below, by the annotators' weights
                self.log_dict({f"val/{name}/{key}": value for key, value in values.items() if np.isfinite(value)})
        super().on_validation_epoch_end()

    # The threshold

    def on_train_end(self) -> None:
        self._choose_threshold()

    def on_fit_end(self) -> None:
        """A run that had trained to its end already, resumed, comes here without the end of training."""
        if not self.chosen:
            self.to(self.trainer.strategy.root_device)
            self._choose_threshold()
            self.cpu()

    def _choose_threshold(self) -> None:
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        found = [(self._logits(batch), batch.labels.cpu()) for batch in self._batches("val")]
        everyone = gathered_shares(found, self.trainer.world_size)
        flat = [pair for pairs in everyone for pair in pairs]
        if not flat:
            self.chosen = {"threshold": self.model.threshold, "chosen_on": "nothing: there is no validation data"}
            return
        logits, positive = (torch.cat(column).double().numpy() for column in zip(*flat, strict=True))
        values = measures(logits, positive)
        self.model.threshold = values["threshold"]
        self.chosen = {"threshold": values.pop("threshold"), "chosen_on": "validation, by balanced accuracy"}
        self.chosen |= {"answers": len(logits)}
        self.chosen |= {"validation": {k: v if np.isfinite(v) else None for k, v in values.items()}}

    def _batches(self, which: str) -> Iterable[LabelledBatch]:
        """All batches of the data, read afresh."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if which == "train":
            yield from (data.train_dataloader() if data is not None else self.trainer.train_dataloader) or ()
            return
        loaders = data.val_dataloader() if data is not None else self.trainer.val_dataloaders
        for loader in loaders if isinstance(loaders, list | tuple) else [loaders] if loaders is not None else []:
            yield from loader

    @torch.no_grad()
    def _logits(self, batch: LabelledBatch) -> Tensor:
        batch = self.trainer.strategy.batch_to_device(batch)
        training, _ = self.model.training, self.model.eval()
        with self.trainer.precision_plugin.forward_context():
            logits = self._scores(batch).float().cpu()
        self.model.train(training)
        return logits

    def _gathered(self, kept: list[tuple[Tensor, ...]]) -> list[np.ndarray]:
        """Columns over all batches of all ranks."""
        batches = [batch for rank in gathered_shares(kept, self.trainer.world_size) for batch in rank]
        return [torch.cat(column).double().numpy() for column in zip(*batches, strict=True)]

    def predict_step(self, batch: LabelledBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:  # noqa: ARG002
        """Logits (N,) of the batch's answers."""
        return self._scores(batch)

    # What is saved

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["threshold"] = float(self.model.threshold)
        checkpoint["positive_weight"] = self._weight

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.model.threshold = checkpoint.get("threshold", self.model.threshold)
        if self.options.positive_weight == "balanced":  # of the training data, which validation does not see
            self._weight = checkpoint.get("positive_weight", self._weight)

    def save(self, folder: str | Path) -> None:
        """The model folder, and ``flags.json``: the threshold, and what the model does on validation with it."""
        super().save(folder)
        if self.global_rank == 0:  # the others call it where the model is spread over processes
            write(Path(folder), {"label": LABEL, **self.chosen})

    def evaluated(self, folder: Path, heldout: Mapping[str, Mapping[str, Any]]) -> None:
        """Adds the held-out measures (sensitivity and specificity correct a rate: ``evaluation.prevalence``)."""
        write(Path(folder), {"label": LABEL, **self.chosen, "heldout": {k: dict(v) for k, v in heldout.items()}})


def measures(logits: np.ndarray, positive: np.ndarray) -> dict[str, float]:
    """The best threshold on these answers, and every measure with it."""
    threshold = best_threshold(labels(0.5 * (1 + np.tanh(0.5 * logits)), positive))
    return {"threshold": threshold, **estimates(logits, positive, threshold)}


def write(folder: Path, content: Mapping[str, Any]) -> None:
    write_json(folder / FILE, content)
