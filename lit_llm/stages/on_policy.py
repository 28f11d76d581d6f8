"""Learning from one's own answers: what PPO and GRPO share, from sampling to the optimizers' steps.

One training step is one rollout with all its updates, so steps, schedules and checkpoints count rollouts.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.records import PromptBatch
from lit_llm.rewards.scoring import Answers, fitting
from lit_llm.stages.answer_room import check_reward_room, check_room
from lit_llm.stages.answering import Answering
from lit_llm.stages.options import RolloutOptions
from lit_llm.stages.reward_monitor import RewardMonitor
from lit_llm.stages.rollout_signs import RolloutSigns
from lit_llm.stages.start import Policy

log = logging.getLogger(__name__)


class OnPolicy(Answering):
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
    left_out: ClassVar[tuple[str, ...]] = ("reference", "reward", "gold")

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
        self.end_ids = answer_ends(options.end_ids, self.tokenizer, self.model.config.vocab_size)
        self.reward = fitting(reward, self.model, self.tokenizer)
        self.gold = None if gold is None else fitting(gold, self.model, self.tokenizer, "gold")
        self.signs = RolloutSigns(options.max_new_tokens, self.model.config.max_positions)
        self.reference: LanguageModel | None = None
        if not options.lora_rank:
            self.reference = copy.deepcopy(self.model).requires_grad_(False)
        self.adapt(options)
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
            self.reference = None

    # What a stage adds

    @property
    def group_size(self) -> int:
        """Answers to each prompt of a rollout."""
        return 1

    def networks(self) -> dict[str, nn.Module]:
        """What is trained, by the name it is logged under; each has an optimizer of its own."""
        return {"policy": self.model}

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
        self.signs.speaks = self.trainer.is_global_zero
        told, longest = getattr(data, "options", None), getattr(data, "longest_prompt", None)
        if told is not None:
            check_minibatches(told.micro_batch_size, self.group_size, self.options.minibatches)
        if longest is not None:
            check_room(int(longest), self.options.max_new_tokens, self.model.config.max_positions)
            self.signs.room = self.model.config.max_positions - int(longest)
            check_reward_room(self.reward, int(longest), self.options.max_new_tokens)
            if self.gold is not None:
                check_reward_room(self.gold, int(longest), self.options.max_new_tokens, "gold")

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

    def learn(
        self, plan: Sequence[Sequence[Tensor]], gradients: Callable[[Tensor, bool], dict[str, Tensor]]
    ) -> dict[str, float]:
        """All updates of a rollout: one for every share of rows in every epoch of ``plan``.

        ``gradients(rows, first)`` adds up a minibatch's gradients and returns its metrics, among them ``loss`` and
        ``policy/approx_kl``; ``first`` says that nothing was updated yet. Returns each metric's mean over the updates.
        """
        totals, done, limit = Counter[str](), 0, self.options.target_kl
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for share in (share for epoch in plan for share in epoch):
            metrics = self.numbers(gradients(share, done == 0))
            for network, optimizer in zip(self.networks(), optimizers, strict=True):
                trained = self._trained(optimizer.optimizer)
                norm = self.finish_gradients(trained, 1.0, self.options.max_grad_norm, metrics["loss"])
                metrics[f"{network}/grad_norm"] = norm
                # Only one step of a rollout goes by way of Lightning, which counts them: its steps are rollouts.
                (optimizer if done == 0 and network == "policy" else optimizer.optimizer).step()
                optimizer.optimizer.zero_grad()
            done += 1
            totals.update(metrics)
            if limit is not None and metrics["policy/approx_kl"] > limit:
                break
        values = {name: total / done for name, total in totals.items()}
        values["lr"] = optimizers[0].optimizer.param_groups[0]["lr"]
        self._tick()
        return {**values, "updates": float(done)}

    def _tick(self) -> None:
        schedulers = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()  # type: ignore[union-attr]

    def shares(self, rows: int, generator: torch.Generator) -> list[Tensor]:
        """The rows of a rollout, shuffled and shared out over the updates of an epoch; on the CPU, which packs them.

        A short rollout, at the end of the data, may have fewer rows than there are updates, and processes may hold
        different numbers of them: all make as many updates as the one with the fewest rows can.
        """
        order = torch.randperm(rows, generator=generator)
        fewest = -int(self.most_of_processes(torch.tensor(-rows)))
        return list(torch.tensor_split(order, min(self.options.minibatches, fewest)))

    def scores_of_parts(self, scores: Tensor) -> dict[str, Tensor]:
        """``objective/<part>`` of a reward that keeps its parts' scores as ``latest``: means over what was verified."""
        parts = {name: torch.as_tensor(part).to(scores) for name, part in self.reward.latest.items()}
        return {f"objective/{name}": part.nanmean().nan_to_num() for name, part in parts.items()}

    def numbers(self, named: dict[str, Tensor]) -> dict[str, float]:
        """Means over ranks, so that all decide alike (to stop early, to drop an update), in one wait for the device."""
        stacked = torch.stack([value.detach().to(self.device, torch.float32) for value in named.values()])
        return dict(zip(named, self.mean_of_processes(stacked).tolist(), strict=True))


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
