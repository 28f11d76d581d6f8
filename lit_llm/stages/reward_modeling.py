"""Reward modelling: a score for every completion, learned from people's rankings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from inspect import signature
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.branches import branches_of
from lit_llm.backbone.lora import TARGETS
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.objectives.ranking import bradley_terry
from lit_llm.records import RankingBatch
from lit_llm.rewards.validation.validator import RewardValidator
from lit_llm.runtime.distributed import gathered
from lit_llm.stages.adherence import Adherence, add_to, adherence_of, check_options
from lit_llm.stages.attack_pairs import answers_in, attack_loss, without_attacks
from lit_llm.stages.base import Stage
from lit_llm.stages.ranking_checks import check_rankings
from lit_llm.stages.ranking_metrics import derived, judged_pairs, pair_sums, ranking_summary

RankingLoss = Callable[..., tuple[Tensor, Tensor]]


class RewardModeling(Stage):
    """Trains a ``ScoreModel`` on ranked completions; a batch's prompts and completions are each read once.

    Args:
        model: a language model (the instruction-tuned one), whose transformer is copied and given a score head.
        loss: of ``scores (N,), groups (N,), ranks (N,), weights (P,)``, one of ``objectives.ranking`` or one's own;
            where the data has margins, also of ``margins=(P,)``.
        normalize_batches: after training, scores are shifted and scaled to mean 0 and deviation 1 over the answers of
            this many training batches (attacks among them are no answers); 0 leaves them as they are.
        normalize_scale: scale them too (a gain); False: only shift them (a bias).
        adherence: ``learned`` estimates for each annotator a factor on the scores in the likelihood of that
            annotator's rankings (``adherence.py``); logged as ``adherence/<name>``.
        adherence_shape, adherence_rate: of the factors' Gamma prior.
        adherence_lr: learning rate of the factors' logarithms at the schedule's peak.
        attack_weight: of the pairs of an answer with an attack (``data.attacks``). They are a loss of their own, their
            mean over each prompt, beside the people's: no annotator's adherence and no margin is in it, and the
            people's pairs keep the weight that they have without attacks.
        lora_rank: rank of the transformer's adapters (arXiv:2106.09685), with which the head alone is trained whole; 0
            trains all weights.
        lora_alpha, lora_dropout, lora_targets: the adapters' scale times their rank, the share of their input that is
            left out, and the layers that get one.
        base_model: name or folder of the model that an adapter belongs to; None: a run gives what it started from.
        reward_validation: what the finished model has to pass before PPO takes it for its reward; None: none is taken.
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
        normalize_scale: bool = True,
        adherence: Literal["none", "learned"] = "none",
        adherence_shape: float = 10.0,
        adherence_rate: float = 10.0,
        adherence_lr: float = 0.03,
        attack_weight: float = 1.0,
        lora_rank: int = 0,
        lora_alpha: float = 32.0,
        lora_dropout: float = 0.05,
        lora_targets: Sequence[str] = TARGETS,
        base_model: str | None = None,
        reward_validation: RewardValidator | None = None,
    ) -> None:
        check_options(adherence, adherence_shape, adherence_rate, adherence_lr)
        if normalize_batches < 0:
            raise UserError(f"stage.normalize_batches: {normalize_batches}; must be 0 or more")
        if not 0 <= attack_weight < math.inf:
            raise UserError(f"stage.attack_weight: {attack_weight}; must be 0 or more")
        scored = ScoreModel.from_language_model(model)
        super().__init__(model=scored, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        self.adapt(lora_rank, lora_alpha, lora_dropout, lora_targets, base_model)
        self.ranking_loss, self.reward_validation = loss, reward_validation
        self.attack_weight = attack_weight
        self.normalize_batches, self.normalize_scale = normalize_batches, normalize_scale
        self.adherence_kind, self.adherence_lr = adherence, adherence_lr
        self.adherence_prior = adherence_shape, adherence_rate
        self.adherence: Adherence | None = None
        self._normalized = False
        self._judged: dict[int, list[tuple[Tensor, ...]]] = {}
        self.remember(loss=_name(loss), normalize_batches=normalize_batches, adherence=adherence)

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """The annotators are known once the data is: their factors are made here."""
        if self.adherence_kind == "learned" and self.adherence is None:
            self.adherence = adherence_of(self.trainer.datamodule, *self.adherence_prior)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.model)
        if self.adherence is not None:
            add_to(optimizer, self.adherence, self.adherence_lr)
        schedule = self.make_schedule(optimizer, self.total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def loss(self, batch: RankingBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        check_rankings(batch, self.model.config.vocab_size, self.model.config.max_positions)
        scores = self._scores(batch)
        total, count = self._ranking_loss(scores, batch)
        if self.adherence is not None and self.training:
            assert batch.annotators is not None  # the data that named them
            total = total + self.adherence.prior(batch.annotators)
        return total, count, pair_sums(*without_attacks(scores.detach(), batch))

    def _scores(self, batch: RankingBatch) -> Tensor:
        return self.model.score_branches(branches_of(batch.input_ids, batch.prompt_lengths, batch.lengths))

    def _ranking_loss(self, scores: Tensor, batch: RankingBatch) -> tuple[Tensor, Tensor]:
        """The people's pairs, and beside them those with an attack; counted are the prompts that people ranked."""
        answers, people = without_attacks(scores, batch)
        total, count = self._people_loss(answers, people)
        if people is not batch and self.attack_weight:
            total = total + self.attack_weight * attack_loss(scores, batch)
        return total, count

    def _people_loss(self, scores: Tensor, batch: RankingBatch) -> tuple[Tensor, Tensor]:
        """The loss of the scores as each annotator adheres to them, with the margins where there are any."""
        if self.adherence is not None and batch.annotators is not None:
            scores = scores * self.adherence(batch.annotators)[batch.groups]
        if batch.margins is None or not bool(batch.margins.any()):
            return self.ranking_loss(scores, batch.groups, batch.ranks, batch.weights)
        if "margins" not in signature(self.ranking_loss).parameters:
            raise UserError(
                f"loss: {_name(self.ranking_loss)} takes no margins and the data has some (field 'margin'); use "
                "loss@stage.loss=bradley_terry, or leave the field out"
            )
        return self.ranking_loss(scores, batch.groups, batch.ranks, batch.weights, margins=batch.margins)

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
        check_rankings(batch, self.model.config.vocab_size, self.model.config.max_positions)
        scores = self._scores(batch)
        total, count = self._ranking_loss(scores, batch)
        self._validation[dataloader_idx].add(total, count, pair_sums(scores, batch))
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
        batches = [batch for rank in gathered(kept, self.trainer.world_size) for batch in rank]
        return [torch.cat(column) for column in zip(*batches, strict=True)]

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
        self._set_normalization(mean, std if self.normalize_scale else 1.0)

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
            scores = self._scores(batch).float()
        self.model.train(training)
        return scores[answers_in(batch)]

    def _set_normalization(self, mean: float, std: float) -> None:
        self.model.reward_mean.fill_(mean)
        self.model.reward_std.fill_(std)


def _name(loss: RankingLoss) -> str:
    return str(getattr(loss.func if isinstance(loss, partial) else loss, "__name__", type(loss).__name__))
