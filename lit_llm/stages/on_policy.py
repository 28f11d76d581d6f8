"""Learning from one's own answers: what PPO and GRPO share, a sampler of rollouts and an updater beside each other.

One training step is one rollout with all its updates, so steps, schedules and checkpoints count rollouts.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.objectives.policy import kl_k1
from lit_llm.records import Prompt, PromptBatch, Rollout
from lit_llm.rewards.scoring import Answers, fitting
from lit_llm.runtime.distributed import peers
from lit_llm.stages.base import Stage
from lit_llm.stages.experience import Sequences
from lit_llm.stages.initial_model import Policy
from lit_llm.stages.length_checks import check_answer_fits, check_reward_fits
from lit_llm.stages.options import RolloutOptions
from lit_llm.stages.reward_monitor import RewardMonitor
from lit_llm.stages.rollout_warnings import RolloutWarnings
from lit_llm.stages.sampler import RolloutSampler
from lit_llm.stages.updater import PolicyUpdater

log = logging.getLogger(__name__)


class OnPolicy(Stage):
    """A policy that answers prompts, is scored by a reward, and held near a frozen reference.

    Args:
        options: ``RolloutOptions``.
        model: the policy, an instruction-tuned language model. The reference is a frozen copy of it; with adapters it
            is the policy itself with them switched off, so that there is no second copy.
        reward: a reward (``lit_llm/rewards``): what is maximised.
        gold: another reward that only validation takes, to see the first one exploited; None: none.
    """

    Options: ClassVar[type[RolloutOptions]] = RolloutOptions
    batch_type: ClassVar[type] = PromptBatch
    not_in_checkpoint: ClassVar[tuple[str, ...]] = ("reference", "reward", "gold")
    unverified_allowed: ClassVar[bool] = False  # whether a reward may say NaN: it could not verify the answer
    options: RolloutOptions
    model: LanguageModel

    def __init__(
        self,
        options: RolloutOptions | None = None,
        *,
        model: Policy,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        reward: Any,
        tokenizer: Any = None,
        gold: Any = None,
    ) -> None:
        super().__init__(options, model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        options = self.options
        every = options.reward_validation_every_n_steps
        self.monitor = RewardMonitor(reward, gold, every, options.ignore_reward_validation)
        self.monitor.gate()
        self.ended = False  # by a validation on the way
        self.automatic_optimization = False
        ends = answer_ends(options.end_ids, self.tokenizer, self.model.config.vocab_size)
        self.reward = fitting(reward, self.model, self.tokenizer)
        self.gold = None if gold is None else fitting(gold, self.model, self.tokenizer, "gold")
        self.warnings = RolloutWarnings(options.max_new_tokens, self.model.config.max_positions)
        self.reference: LanguageModel | None = None
        if not options.lora_rank:
            self.reference = copy.deepcopy(self.model).requires_grad_(False)
        self.adapt(options)
        self.sampler = RolloutSampler(
            self.model, self.reference, options, ends, self.unverified_allowed, self.whole
        )
        self.updater = PolicyUpdater(self, options)
        self.gold_by_prompt: dict[str, list[Tensor]] = {}  # by source: what gold gives each validation prompt
        self._tokens = 0
        self.train()

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", **live: Any
    ) -> Self:
        """As of every stage; a checkpoint holds no reward, which is given again. Raises UserError without."""
        if live.get("reward") is None:
            raise UserError(f"{checkpoint_path}: holds no reward; give it again: load_from_checkpoint(PATH, reward=)")
        return super().load_from_checkpoint(checkpoint_path, map_location, **live)

    def has_moved_on(self, start_known: bool) -> None:
        """Where the start is not known and there are no adapters, nothing more can be learned or validated."""
        if not start_known:
            self.reference = self.sampler.reference = None

    # What a stage adds

    @property
    def group_size(self) -> int:
        """Answers to each prompt of a rollout."""
        return 1

    @property
    def validation_samples(self) -> int:
        """Answers to each validation prompt."""
        return 1

    def networks(self) -> dict[str, nn.Module]:
        """What is trained, by the name it is logged under; each has an optimizer of its own."""
        return {"policy": self.model}

    def experience(
        self, sequences: Sequences, rollout: Rollout, scores: Tensor, parts: Sequence[Tensor], first: bool
    ) -> tuple[Any, dict[str, float]]:
        """What a rollout with these scores (B,) teaches, and what is logged of it. ``parts``: the rows of each forward
        pass. ``first``: nothing was updated yet."""
        raise NotImplementedError

    def gradients(self, sequences: Sequences, experience: Any, share: Tensor, check: bool) -> dict[str, Tensor]:
        """Adds up the gradients of one minibatch, the rows ``share``. Returns its metrics, detached. ``check``: nothing
        was updated yet."""
        raise NotImplementedError

    def judged(self, scores: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """What else validation says of an answer's score (B,), summed over the answers."""
        return {}

    def after_updates(self, logged: dict[str, float], answers: int) -> None:
        """Called after the updates of a rollout of so many answers."""

    # One rollout and what is learned from it

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:  # type: ignore[override]  # noqa: ARG002
        number, sampler, updater = self.global_step, self.sampler, self.updater
        generator = sampler.randomness(number, self.global_rank // peers())
        rollout = self.sampled(batch, generator, self.group_size)
        answers = self.answers(rollout, batch, self.group_size)
        scores = self.scores_of(self.reward, answers)
        parts = self.scores_of_parts(scores)
        validated = self.validate_reward(answers, number)
        if self.ended:
            return
        plan = [updater.shares(len(scores), generator) for _ in range(self.options.epochs)]
        sequences, passes = Sequences(rollout), [rows for share in plan[0] for rows in updater.parts(share)]
        experience, logged = self.experience(sequences, rollout, scores, passes, first=number == 0)
        logged |= updater.numbers(parts) if parts else {}
        logged |= updater.learn(
            self.networks(), plan, lambda share, first: self.gradients(sequences, experience, share, first)
        )
        self.after_updates(logged, len(scores))
        self.warnings.tell(logged, number)
        self._tokens = sequences.tokens
        self.log_training(logged | validated)

    def sampled(self, batch: PromptBatch, generator: torch.Generator, samples: int) -> Rollout:
        """``samples`` answers to each prompt, the same in processes that take the same prompts."""
        rollout = self.sampler.sample(batch, generator, samples)
        if self.sharding is None:
            return rollout
        *columns, drawn = self.sharding.of_first_peer([*rollout, generator.get_state()])
        generator.set_state(drawn.cpu())  # longer answers draw more, and what comes next is drawn from it too
        return Rollout(*columns)

    def scores_of(self, reward: Any, answers: Answers, name: str = "reward") -> Tensor:
        """A reward's scores (B,), the same in processes that take the same prompts."""
        scores = self.sampler.scores(reward, answers, name)
        return scores if self.sharding is None else self.sharding.of_first_peer([scores])[0]

    def answers(self, rollout: Rollout, batch: PromptBatch, samples: int = 1) -> Answers:
        """The rollout as rewards read it."""

        def prompts() -> list[Prompt]:
            known = getattr(self.trainer.datamodule, "prompts", None)  # type: ignore[attr-defined]
            if known is None:
                raise UserError("reward: reads texts, but the data has no `prompts` to find them in; use data=prompts")
            return [known[index] for index in batch.indices.tolist() for _ in range(samples)]

        return Answers(rollout, prompts, lambda ids: self.tokenizer.decode(ids))

    def scores_of_parts(self, scores: Tensor) -> dict[str, Tensor]:
        """``objective/<part>`` of a reward that keeps its parts' scores as ``latest``: means over what was verified."""
        parts = {name: torch.as_tensor(part).to(scores) for name, part in self.reward.latest.items()}
        return {f"objective/{name}": self.updater.mean(part, ~part.isnan()) for name, part in parts.items()}

    # Validation: the same answers' randomness every time

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.gold_by_prompt = {}

    @torch.no_grad()
    def validation_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """``val/<source>/``: scores, gold, kl (nats an answer), response_length, eos_rate; the loss is minus the score.

        An answer that could not be verified counts as the mean of those that could.
        """
        sampler, samples = self.sampler, self.validation_samples
        rollout = self.sampled(batch, sampler.randomness(batch_idx, -1), samples)
        answers, sequences = self.answers(rollout, batch, samples), Sequences(rollout)
        total, scores = len(rollout.lengths), self.scores_of(self.reward, answers)
        scored = sampler.scored(sequences, self.updater.parts(torch.arange(total)), first=False)
        metrics = {
            **self.judged(scores),
            "scores": scores.nanmean().nan_to_num() * total,
            "kl": kl_k1(scored.logps, scored.reference).sum(),
            "response_length": sequences.mask.sum(),
            "eos_rate": rollout.finished.sum(),
        }
        if self.gold is not None:
            gold = self.scores_of(self.gold, answers, "gold")
            metrics["gold"] = gold.nanmean().nan_to_num() * total
            means = gold.view(-1, samples).nanmean(1).cpu()
            self.gold_by_prompt.setdefault(self.validation_names()[dataloader_idx], []).append(means)
        self._validation[dataloader_idx].add(-metrics["scores"], total, metrics)

    @property
    def answer_length(self) -> int:
        return self.options.max_new_tokens

    def scorers(self) -> dict[str, Any]:
        """The reward and gold."""
        return {"reward": self.reward} | ({} if self.gold is None else {"gold": self.gold})

    @classmethod
    def is_measured_beside_its_start(cls, kind: str) -> bool:
        """On prompts: how far the answers have moved."""
        return kind == "prompts"

    def train(self, mode: bool = True) -> OnPolicy:  # noqa: ARG002
        """Stays in evaluation mode: with dropout on, the ratio would not start at 1."""
        return super().train(False)

    # Optimisation, counted in rollouts

    def configure_optimizers(self) -> list[dict[str, Any]]:  # type: ignore[override]
        made = [self.make_optimizer(network) for network in self.networks().values()]
        return [{"optimizer": each, "lr_scheduler": self.make_schedule(each, self.total_steps())} for each in made]

    def total_steps(self) -> int:
        """Rollouts of the run. Where Lightning is not told, the callback that ends the run after them is asked."""
        told = (getattr(callback, "rollouts", None) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        rollouts = next((each for each in told if each is not None), None)
        return super().total_steps() if rollouts is None else int(rollouts)

    def on_fit_start(self) -> None:
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise UserError("trainer.precision: 16-mixed; a policy's own updates need bf16-mixed or 32-true")
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.warnings.speaks = self.trainer.is_global_zero
        told, longest = getattr(data, "options", None), getattr(data, "longest_prompt", None)
        if told is not None:
            check_minibatches(told.micro_batch_size, self.group_size, self.options.minibatches)
        if longest is not None:
            check_answer_fits(int(longest), self.options.max_new_tokens, self.model.config.max_positions)
            self.warnings.room = self.model.config.max_positions - int(longest)
            check_reward_fits(self.reward, int(longest), self.options.max_new_tokens)
            if self.gold is not None:
                check_reward_fits(self.gold, int(longest), self.options.max_new_tokens, "gold")

    # Validation of the reward during training

    def validate_reward(self, answers: Answers, number: int) -> dict[str, float]:
        """What validation says of the reward on these answers, where it is due. Where it failed the run is ``ended``:
        nothing is learned from the answers, and what is logged of the rollout is the validation.
        """
        logged = self.monitor.validate(self, answers, number)
        self.ended = self.monitor.failed
        if self.ended:
            self._tokens = 0
            self.log_training(logged)
        return logged

    def on_train_start(self) -> None:
        """A run that a validation ended does not go on when it is resumed, unless validations are ignored now."""
        if self.ended and not self.monitor.ignore:
            log.warning(
                "a validation of the reward ended this run; stage.ignore_reward_validation=true goes on with it"
            )
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["ended_by_validation"] = self.ended

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.ended = checkpoint.get("ended_by_validation", checkpoint.get("ended_by_exam", False))  # as it was called

    def tokens_in(self, batch: Any) -> int:  # noqa: ARG002
        """Prompt and answer tokens of the rollout just learned from."""
        return self._tokens


def check_minibatches(prompts: int, group_size: int, minibatches: int) -> None:
    """Raises UserError where a rollout cannot be shared out evenly over its updates."""
    answers = prompts * group_size
    if answers % minibatches:
        groups = f" x stage.group_size={group_size}" if group_size > 1 else ""
        raise UserError(
            f"stage.minibatches: {minibatches}; must divide the rollout's {answers} answers (data.micro_batch_size="
            f"{prompts} prompts{groups})"
        )


def answer_ends(given: Sequence[int] | None, tokenizer: Any, vocab_size: int) -> tuple[int, ...]:
    """The tokens that end an answer: as given, or the tokenizer's."""
    ids = tuple(given) if given is not None else tuple(tokenizer.end_ids) if tokenizer is not None else ()
    if not ids or not all(0 <= i < vocab_size for i in ids):
        raise UserError(f"stage.end_ids: {list(ids)}; give the tokens that end an answer, from 0 to {vocab_size - 1}")
    return ids
