"""Reward modelling: a score for every completion, learned from people's rankings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.models import ScoreModel
from lit_llm.backbone.score_settings import check_can_be_saved
from lit_llm.data.completion_checks import check_fits
from lit_llm.errors import UserError
from lit_llm.objectives.ranking import bradley_terry
from lit_llm.records import RankingBatch
from lit_llm.rewards.validation.validator import RewardValidator
from lit_llm.runtime.distributed import gathered_shares
from lit_llm.stages.adherence import Adherence, add_to, adherence_of
from lit_llm.stages.attack_pairs import attack_loss, of_answers, without_attacks
from lit_llm.stages.base import Stage
from lit_llm.stages.initial_model import Policy, initial_model
from lit_llm.stages.metric_sums import Sums
from lit_llm.stages.options import RewardModelingOptions
from lit_llm.stages.ranking_metrics import derived, judged_pairs, pair_sums, ranking_summary

RankingLoss = Callable[..., tuple[Tensor, Tensor]]


class RewardModeling(Stage):
    """Trains a ``ScoreModel`` on ranked completions; a batch's prompts and completions are each read once.

    Args:
        options: ``RewardModelingOptions``.
        model: a language model (the instruction-tuned one), whose transformer is copied and given a score head.
        loss: of ``scores (N,), groups (N,), ranks (N,), weights (P,)``, one of ``objectives.ranking`` or one's own;
            where the data has margins, also of ``margins=(P,)``; where it names ``pairs``, also of those
            (``RankingBatch.pairs``).
        reward_validation: what the finished model has to pass before PPO takes it for its reward; None: none is taken.
    """

    Options: ClassVar[type[RewardModelingOptions]] = RewardModelingOptions
    name: ClassVar[str] = "reward_modeling"
    batch_type: ClassVar[type] = RankingBatch
    default_lr: ClassVar[float] = 9e-6
    options: RewardModelingOptions
    model: ScoreModel

    def __init__(
        self,
        options: RewardModelingOptions | None = None,
        *,
        model: Policy,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        tokenizer: Any = None,
        loss: RankingLoss = bradley_terry,
        reward_validation: RewardValidator | None = None,
    ) -> None:
        options = options or self.Options()
        language_model, tokenizer = initial_model(model, tokenizer, self.head, options)
        check_can_be_saved(language_model.config)  # before it is trained
        scored = ScoreModel.from_language_model(language_model)
        super().__init__(options, model=scored, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        self.adapt(self.options, self.options.lora_dropout)
        self.ranking_loss, self.reward_validation = loss, reward_validation
        self.adherence: Adherence | None = None
        self._normalized = False
        self._judged: dict[int, list[tuple[Tensor, ...]]] = {}

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """The annotators are known once the data is: their factors are made here."""
        options = self.options
        if options.adherence == "learned" and self.adherence is None:
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            self.adherence = adherence_of(data, options.adherence_shape, options.adherence_rate)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.model)
        if self.adherence is not None:
            add_to(optimizer, self.adherence, self.options.adherence_lr)
        schedule = self.make_schedule(optimizer, self.total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def forward(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores (B,) of right-padded rows (B, T) at their last token; ``lengths`` (B,), None: no row has padding."""
        if lengths is None:
            lengths = torch.full((len(input_ids),), input_ids.shape[1], device=input_ids.device)
        scores: Tensor = self.model(input_ids, lengths)
        return scores

    def loss(self, batch: RankingBatch) -> tuple[Tensor, Tensor, Sums]:
        scores = self._scores(batch)
        total, count = self._ranking_loss(scores, batch)
        if self.adherence is not None and self.training:
            assert batch.annotators is not None  # the data that named them
            total = total + self.adherence.prior(batch.annotators)
        return total, count, self._sums(scores, batch)

    def _scores(self, batch: RankingBatch) -> Tensor:
        check_fits(batch.completions, self.model.config, "rankings")
        return self.model.score_completions(batch.completions)

    @staticmethod
    def _sums(scores: Tensor, batch: RankingBatch) -> Sums:
        """Of the answers: no number that is logged is one of attacks."""
        sizes = of_answers(batch.completions.sizes, batch)
        return pair_sums(of_answers(scores.detach(), batch), sizes, without_attacks(batch).pairs)

    def _ranking_loss(self, scores: Tensor, batch: RankingBatch) -> tuple[Tensor, Tensor]:
        """The people's pairs, and beside them those with an attack; counted are the prompts that people ranked."""
        total, count = self._people_loss(of_answers(scores, batch), without_attacks(batch))
        if batch.attacks is not None and self.options.attack_weight:
            total = total + self.options.attack_weight * attack_loss(scores, batch, batch.attacks)
        return total, count

    def _people_loss(self, scores: Tensor, batch: RankingBatch) -> tuple[Tensor, Tensor]:
        """The loss of the scores as each annotator adheres to them, with the margins where there are any."""
        if self.adherence is not None and batch.annotators is not None:
            scores = scores * self.adherence(batch.annotators)[batch.groups]
        taken = signature(self.ranking_loss).parameters
        if batch.margins is not None and "margins" not in taken:
            raise UserError(
                f"loss: {_name(self.ranking_loss)} takes no margins and the data has some (field 'margin'); use "
                "loss@stage.loss=bradley_terry, or leave the field out"
            )
        more = {"margins": batch.margins, "pairs": batch.pairs}
        more = {name: value for name, value in more.items() if value is not None and name in taken}
        return self.ranking_loss(scores, batch.groups, batch.ranks, batch.weights, **more)

    def derived(self, totals: dict[str, float]) -> dict[str, float]:
        """Pair metrics over pairs, reward metrics over completions."""
        return derived(totals)

    def log_training(self, values: dict[str, float]) -> None:
        """With ``adherence/<annotator>`` where that is learned."""
        known = {} if self.adherence is None else self.adherence.by_name()
        super().log_training(values | {f"adherence/{name}": value for name, value in known.items()})

    # Validation: what needs all pairs at once

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._judged = {}

    def validation_step(self, batch: RankingBatch, batch_idx: int, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        scores = self._scores(batch)
        total, count = self._ranking_loss(scores, batch)
        self._validation[dataloader_idx].add(total, count, self._sums(scores, batch))
        kept = scores.float().cpu(), *judged_pairs(scores, batch)
        self._judged.setdefault(dataloader_idx, []).append(kept)

    def on_validation_epoch_end(self) -> None:
        """Adds ``val/<source>/`` shorter_wins and longer_wins (floors), reward_min and _max, and the accuracy on the
        pairs that all annotators order alike (accuracy_agreed) and on those that they do not (accuracy_disputed)."""
        for index, name in enumerate(self.validation_names()):
            columns = self._gathered(self._judged.get(index, []))
            if columns:
                values = ranking_summary(*columns)
                self.log_dict({f"val/{name}/{key}": value for key, value in values.items()})
        super().on_validation_epoch_end()

    def _gathered(self, kept: list[tuple[Tensor, ...]]) -> list[Tensor]:
        """Columns over all batches of all ranks."""
        batches = [batch for rank in gathered_shares(kept, self.trainer.world_size) for batch in rank]
        return [torch.cat(column) for column in zip(*batches, strict=True)]

    def predict_step(self, batch: RankingBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:  # noqa: ARG002
        """Scores (N,) of the batch's answers."""
        return self._scores(batch)

    # What is saved

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With the names that the factors of adherence are of."""
        super().on_save_checkpoint(checkpoint)
        if self.adherence is not None:
            checkpoint["annotators"] = self.adherence.comparisons()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        known = checkpoint.get("annotators")
        if known is not None and self.adherence is None:
            options = self.options
            self.adherence = Adherence(list(known), known, options.adherence_shape, options.adherence_rate)

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
        if not scores or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        gathered = torch.cat(self._gathered([(torch.cat(scores).cpu(),)]))
        mean, std = float(gathered.mean()), max(float(gathered.std()), 1e-6)
        if not math.isfinite(mean + std):
            raise UserError(
                f"reward model: its scores have mean {mean} and deviation {std}; training did not stay finite, so "
                "lower optimizer.lr"
            )
        self._set_normalization(mean, std if self.options.normalize_scale else 1.0)

    def _training_batches(self) -> Iterator[RankingBatch]:
        source = self.trainer.train_dataloader
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        if datamodule is not None:
            source = datamodule.train_dataloader()  # afresh: the trainer's own stands where training ended
        yield from islice(iter(source or ()), self.options.normalize_batches)

    @torch.no_grad()
    def _scores_of(self, batch: RankingBatch) -> Tensor:
        batch = self.trainer.strategy.batch_to_device(batch)
        training, _ = self.model.training, self.model.eval()
        with self.trainer.precision_plugin.forward_context():
            scores = self._scores(batch).float()
        self.model.train(training)
        return of_answers(scores, batch)

    def _set_normalization(self, mean: float, std: float) -> None:
        self.model.reward_mean.fill_(mean)
        self.model.reward_std.fill_(std)


def _name(loss: RankingLoss) -> str:
    return str(getattr(loss.func if isinstance(loss, partial) else loss, "__name__", type(loss).__name__))
