"""Reward modelling: a score for every completion, learned from people's rankings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.heads import LanguageModel, ScoreModel
from lit_llm.evaluation.statistics import expected_calibration_error
from lit_llm.objectives.ranking import bradley_terry, strict_pairs
from lit_llm.records import RankingBatch
from lit_llm.stages.base import Stage
from lit_llm.stages.ranking_checks import check_rankings

RankingLoss = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class RewardModeling(Stage):
    """Trains a ``ScoreModel`` on ranked completions, with one forward pass for each completion.

    Args:
        model: a language model (the instruction-tuned one), whose transformer is copied and given a score head.
        loss: of ``scores (N,), groups (N,), ranks (N,), weights (P,)``, one of ``objectives.ranking`` or one's own.
        normalize_batches: after training, scores are shifted and scaled to mean 0 and deviation 1 over the completions
            of this many training batches; 0 leaves them as they are.
    """

    name: ClassVar[str] = "reward_modeling"
    batch_type: ClassVar[type] = RankingBatch
    head: ClassVar[str] = "language"
    model: ScoreModel

    def __init__(
        self,
        *,
        model: LanguageModel,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        tokenizer: Any = None,
        loss: RankingLoss = bradley_terry,
        normalize_batches: int = 16,
    ) -> None:
        scored = ScoreModel.from_language_model(model)
        super().__init__(model=scored, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        self.ranking_loss = loss
        self.normalize_batches = normalize_batches
        self._normalized = False
        self._validation_scores: dict[int, list[tuple[Tensor, ...]]] = {}
        loss_name = getattr(loss.func if isinstance(loss, partial) else loss, "__name__", type(loss).__name__)
        self.remember(loss=loss_name, normalize_batches=normalize_batches)

    def loss(self, batch: RankingBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        check_rankings(batch, self.model.config.vocab_size, self.model.config.max_positions)
        scores = self.model(batch.input_ids, batch.lengths)
        total, count = self.ranking_loss(scores, batch.groups, batch.ranks, batch.weights)
        return total, count, _pair_sums(scores.detach(), batch)

    def derived(self, totals: dict[str, float]) -> dict[str, float]:
        """Pair metrics over pairs, reward metrics over completions."""
        pairs, completions = max(totals["pairs"], 1.0), max(totals["completions"], 1.0)
        values = {name: totals[name] / pairs for name in ("accuracy", "margin", "nll", "brier")}
        mean = totals["reward"] / completions
        deviation = max(totals["reward_squared"] / completions - mean**2, 0.0) ** 0.5
        return {"loss": totals["loss"] / max(totals["count"], 1e-9), **values, "reward": mean, "reward_std": deviation}

    # Validation: what needs all pairs at once

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._validation_scores = {}

    def validation_step(self, batch: RankingBatch, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        check_rankings(batch, self.model.config.vocab_size, self.model.config.max_positions)
        scores = self.model(batch.input_ids, batch.lengths)
        total, count = self.ranking_loss(scores, batch.groups, batch.ranks, batch.weights)
        self._validation[dataloader_idx].add(total, count, _pair_sums(scores, batch))
        winners, losers = strict_pairs(batch.groups, batch.ranks)
        sizes = (batch.lengths - batch.prompt_lengths).float()
        kept = scores, sizes, scores[winners] - scores[losers], sizes[winners] - sizes[losers]
        self._validation_scores.setdefault(dataloader_idx, []).append(tuple(x.float().cpu() for x in kept))

    def on_validation_epoch_end(self) -> None:
        """Adds ``val/<source>/`` ece, length_correlation, shorter_wins and longer_wins (floors), reward_min, _max."""
        for index, name in enumerate(self.validation_names()):
            columns = self._gathered(self._validation_scores.get(index, []))
            if columns:
                values = ranking_summary(*(np.asarray(column) for column in columns))
                self.log_dict({f"val/{name}/{key}": value for key, value in values.items()})
        super().on_validation_epoch_end()

    def _gathered(self, kept: list[tuple[Tensor, ...]]) -> list[Tensor]:
        """Columns over all batches of all ranks."""
        if self.trainer.world_size > 1:
            everyone: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(everyone, kept)
            kept = [batch for rank in everyone for batch in rank]
        return [torch.cat(column) for column in zip(*kept, strict=True)]

    # Normalisation

    def on_train_end(self) -> None:
        self._normalize()

    def on_fit_end(self) -> None:
        """A run that had trained to its end already, resumed, comes here without the end of training."""
        if not self._normalized:
            self.to(self.trainer.strategy.root_device)
            self._normalize()
            self.cpu()

    def _normalize(self) -> None:
        self._normalized = True
        self._set_normalization(0.0, 1.0)  # of the bare score
        scores = [self._scores_of(batch) for batch in self._training_batches()]
        if scores and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            gathered = torch.cat(self._gathered([(torch.cat(scores).cpu(),)]))
            self._set_normalization(float(gathered.mean()), max(float(gathered.std()), 1e-6))

    def _training_batches(self) -> Iterator[RankingBatch]:
        source = self.trainer.train_dataloader
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        if datamodule is not None:
            source = datamodule.train_dataloader()  # afresh: the trainer's own stands where training ended
        yield from islice(iter(source or ()), self.normalize_batches)

    @torch.no_grad()
    def _scores_of(self, batch: RankingBatch) -> Tensor:
        batch = self.trainer.strategy.batch_to_device(batch)
        training, _ = self.model.training, self.model.eval()
        with self.trainer.precision_plugin.forward_context():
            scores: Tensor = self.model(batch.input_ids, batch.lengths).float()
        self.model.train(training)
        return scores

    def _set_normalization(self, mean: float, std: float) -> None:
        self.model.reward_mean.fill_(mean)
        self.model.reward_std.fill_(std)


def _pair_sums(scores: Tensor, batch: RankingBatch) -> dict[str, Tensor]:
    """Sums over strict pairs and over completions, detached."""
    winners, losers = strict_pairs(batch.groups, batch.ranks)
    margin = (scores[winners] - scores[losers]).float()
    return {
        "pairs": torch.tensor(len(margin)),
        "accuracy": (margin > 0).sum() + 0.5 * (margin == 0).sum(),
        "margin": margin.sum(),
        "nll": -F.logsigmoid(margin).sum(),
        "brier": torch.sigmoid(-margin).square().sum(),  # (p - 1)^2, p = sigmoid(margin)
        "completions": torch.tensor(len(scores)),
        "reward": scores.sum(),
        "reward_squared": scores.square().sum(),
    }


def ranking_summary(
    scores: np.ndarray, sizes: np.ndarray, margins: np.ndarray, size_gaps: np.ndarray
) -> dict[str, float]:
    """What cannot be summed batch by batch, for completions (N,), (N,) and strict pairs (M,), (M,) winner - loser."""
    # Each pair is seen from both sides: from the winner's alone every outcome is 1, which calibrates nothing.
    both = np.concatenate([margins, -margins])
    probabilities = 1 / (1 + np.exp(-both.astype(np.float64)))
    varied = len(scores) > 1 and scores.std() > 0 and sizes.std() > 0
    shorter = float(((size_gaps < 0) + 0.5 * (size_gaps == 0)).mean()) if len(size_gaps) else 0.5
    return {
        "ece": expected_calibration_error(probabilities, np.repeat([1.0, 0.0], len(margins))),
        "length_correlation": float(np.corrcoef(scores, sizes)[0, 1]) if varied else 0.0,
        "shorter_wins": shorter,
        "longer_wins": 1 - shorter,
        "reward_min": float(scores.min()),
        "reward_max": float(scores.max()),
    }
