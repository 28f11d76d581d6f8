"""PPO: the policy answers prompts, a reward scores the answers, and both it and a value network learn from them.

InstructGPT's form (arXiv:2203.02155): per-token KL penalty against the frozen reference, the score at the last token.
One training step is one rollout with all its updates, so steps, schedules and checkpoints count rollouts.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.heads import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.sampling import completions, generate
from lit_llm.objectives import policy
from lit_llm.records import Message, PromptBatch, Rollout
from lit_llm.stages.base import Stage
from lit_llm.stages.experience import Experience, Sequences, completion_logps, completion_values
from lit_llm.stages.ppo_setup import answer_ends, check_options, fitting_reward, value_network

START_TOLERANCE = 0.05
"""Nats a token by which equal networks may differ in bfloat16; a real difference (dropout, another model) is larger."""


class PPO(Stage):
    """Args:
    model: the policy, an instruction-tuned language model; a frozen copy of it is the reference.
    reward: see ``rewards``.
    kl_coef: beta, the price of a nat away from the reference; 0 is allowed.
    clip_range, value_clip_range: eps of the ratio, and of values in units of the score.
    vf_coef: weight of the value loss.
    gamma, lam: of GAE.
    epochs, minibatches: passes over a rollout, and updates in each.
    micro_batch_size: rows of a forward pass; None: a whole minibatch. It changes memory, not results.
    temperature: of sampling and of all scoring.
    missing_eos_penalty: taken from the score of an answer cut by max_new_tokens.
    max_grad_norm: of each network's gradient; 0: no clipping.
    value_init: "reward": from the reward model where there is one; "zero": the policy's transformer and a zero head.
    value_lr_ratio: the value network's learning rate over the policy's.
    target_kl: a rollout's updates end early when an update's approximate KL to the sampling policy is above it.
    adaptive_kl_target: KL per answer in nats that kl_coef is steered to; None: it stays.
    adaptive_kl_horizon: answers over which it is steered.
    end_ids: what ends an answer; None: the tokenizer's.
    seed: of sampling and of the order of updates. They depend on it and on the rollout's number alone, so a resumed
        run goes on exactly.
    """

    name: ClassVar[str] = "ppo"
    batch_type: ClassVar[type] = PromptBatch
    left_out: ClassVar[tuple[str, ...]] = ("reference", "reward")
    model: LanguageModel
    adapted_kl_coef: Tensor

    def __init__(
        self,
        *,
        model: LanguageModel,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        reward: Any,
        tokenizer: Any = None,
        kl_coef: float = 0.05,
        clip_range: float = 0.2,
        value_clip_range: float = 0.2,
        vf_coef: float = 0.1,
        gamma: float = 1.0,
        lam: float = 0.95,
        epochs: int = 4,
        minibatches: int = 1,
        micro_batch_size: int | None = None,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        missing_eos_penalty: float = 1.0,
        max_grad_norm: float = 1.0,
        value_init: str = "reward",
        value_lr_ratio: float = 1.0,
        target_kl: float | None = None,
        adaptive_kl_target: float | None = None,
        adaptive_kl_horizon: int = 10_000,
        end_ids: tuple[int, ...] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model=model, optimizer=optimizer, schedule=schedule, tokenizer=tokenizer)
        options = {name: value for name, value in locals().items() if isinstance(value, int | float | str)}
        check_options(options)
        self.automatic_optimization = False
        self.kl_coef, self.clip_range, self.value_clip_range, self.vf_coef = (
            kl_coef,
            clip_range,
            value_clip_range,
            vf_coef,
        )
        self.gamma, self.lam, self.epochs, self.minibatches = gamma, lam, epochs, minibatches
        self.micro_batch_size, self.temperature, self.max_new_tokens = micro_batch_size, temperature, max_new_tokens
        self.missing_eos_penalty, self.max_grad_norm, self.seed = missing_eos_penalty, max_grad_norm, seed
        self.value_lr_ratio, self.target_kl = value_lr_ratio, target_kl
        self.adaptive_kl_target, self.adaptive_kl_horizon = adaptive_kl_target, adaptive_kl_horizon
        self.end_ids = answer_ends(end_ids, tokenizer, model.config.vocab_size)
        self.reward = fitting_reward(reward, model, tokenizer)
        self.value = value_network(model, self.reward, value_init)
        self.reference = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("adapted_kl_coef", torch.tensor(kl_coef, dtype=torch.float32))
        self._tokens = 0
        self.train()
        self.remember(**options)

    def train(self, mode: bool = True) -> PPO:  # noqa: ARG002
        """Stays in evaluation mode: with dropout on, the ratio would not start at 1."""
        return super().train(False)

    def configure_optimizers(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The policy's and the value network's, each with its schedule, counted in rollouts."""
        made = [self.make_optimizer(self.model), self.make_optimizer(self.value)]
        for group in made[1].param_groups:
            group["lr"] *= self.value_lr_ratio
        return [{"optimizer": each, "lr_scheduler": self.make_schedule(each, self.total_steps())} for each in made]

    def total_steps(self) -> int:
        """Rollouts of the run. Where Lightning is not told, the callback that ends the run after them is asked."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if type(callback).__name__ == "StopAfter":
                return int(callback.steps)
        return super().total_steps()

    def on_fit_start(self) -> None:
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise UserError("trainer.precision: 16-mixed; PPO's own updates need bf16-mixed or 32-true")

    def tokens_in(self, batch: Any) -> int:  # noqa: ARG002
        """Prompt and answer tokens of the rollout just learned from."""
        return self._tokens

    # One rollout and what is learned from it

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:  # type: ignore[override]  # noqa: ARG002
        number = self.global_step
        generator = torch.Generator().manual_seed(_mixed(self.seed, number, self.global_rank))
        rollout = self._sample(batch, generator)
        scores = self._scores(rollout, batch)
        plan = [self._shares(len(scores), generator) for _ in range(self.epochs)]
        experience, logged = self._experience(rollout, scores, plan[0], first=number == 0)
        logged |= self._update(experience, plan)
        for scheduler in self.lr_schedulers():  # type: ignore[union-attr]
            scheduler.step()
        self._adapt(logged["objective/kl"], len(scores))
        self._tokens = int(rollout.lengths.sum())
        self.log_training(logged)

    def _sample(self, batch: PromptBatch, generator: torch.Generator) -> Rollout:
        kind = self.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        with torch.autocast(kind, enabled=False):  # a copy in the lower precision need not be cast at every token
            return generate(
                self.model,
                (batch.input_ids, batch.lengths),
                max_new_tokens=self.max_new_tokens,
                end_ids=self.end_ids,
                temperature=self.temperature,
                generator=generator,
                batch_size=len(batch.lengths),
                dtype=dtype,
            )

    @torch.no_grad()
    def _scores(self, rollout: Rollout, batch: PromptBatch) -> Tensor:
        """The reward's scores (B,), before penalties."""
        if hasattr(self.reward, "score_tokens"):
            scores = self.reward.score_tokens(rollout.input_ids, rollout.lengths)
        else:
            texts = [self.tokenizer.decode(ids) for ids in completions(rollout)]
            scores = self.reward(self._conversations(batch), texts)
        scores = torch.as_tensor(scores, dtype=torch.float32, device=self.device)
        if scores.shape != rollout.lengths.shape:
            raise UserError(
                f"reward: {tuple(scores.shape)} scores for {len(rollout.lengths)} answers; one each is needed"
            )
        if not bool(scores.isfinite().all()):
            bad = int((~scores.isfinite()).nonzero()[0])
            raise UserError(f"reward: {float(scores[bad])} for answer {bad} of the rollout; must be a finite number")
        return scores

    def _conversations(self, batch: PromptBatch) -> list[tuple[Message, ...]]:
        prompts = getattr(self.trainer.datamodule, "prompts", None)  # type: ignore[attr-defined]
        if prompts is None:
            raise UserError("reward: reads texts, but the data has no `prompts` to find them in; use data=prompts")
        return [prompts[index].messages for index in batch.indices.tolist()]

    @torch.no_grad()
    def _experience(
        self, rollout: Rollout, scores: Tensor, shares: list[Tensor], first: bool
    ) -> tuple[Experience, dict[str, float]]:
        """Scores the answers with policy, reference and value network, in the very batches of the first updates.

        The log-probabilities kept from sampling came through a cache: their rounding must not pass for a change.
        """
        sequences = Sequences.of(rollout)
        logps, reference, values, entropy = (torch.zeros(sequences.mask.shape, device=self.device) for _ in range(4))
        for rows in (micro for share in shares for micro in self._micro(share)):
            part = sequences.select(rows)
            logps[rows], entropy[rows] = completion_logps(self.model, part, self.temperature, with_entropy=True)
            reference[rows], _ = completion_logps(self.reference, part, self.temperature)
            values[rows] = completion_values(self.value, part)
        mask = sequences.mask
        if first:
            _check_equal("policy and reference differ", logps, reference, mask)
        coef = float(self.adapted_kl_coef)
        penalised = scores - self.missing_eos_penalty * (~rollout.finished)
        experience = Experience.of(sequences, logps, reference, values, penalised, coef, self.gamma, self.lam)
        kl = torch.where(mask, logps - reference, 0).sum(1)
        named = {
            "objective/kl": kl.mean(),
            "objective/scores": scores.mean(),
            "objective/scores_std": scores.std(unbiased=False),
            "objective/non_score_reward": (-coef * kl).mean(),
            "objective/rlhf_reward": (penalised - coef * kl).mean(),
            "objective/response_length": mask.sum(1).float().mean(),
            "objective/eos_rate": rollout.finished.float().mean(),
            "policy/entropy": policy.masked_mean(entropy, mask),
            "policy/sampling_gap": policy.masked_mean((logps - sequences.dense(rollout.logps)).abs(), mask),
            "val/explained_variance": policy.explained_variance(values, experience.returns, mask),
        }
        return experience, {**self._numbers(named), "objective/kl_coef": coef}

    def _update(self, experience: Experience, plan: list[list[Tensor]]) -> dict[str, float]:
        """All updates from one rollout. Returns the mean of each metric over them."""
        totals, done = Counter[str](), 0
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        for share in (share for epoch in plan for share in epoch):
            metrics = self._numbers(self._gradients(experience, share, check=done == 0))
            for network, optimizer in zip(("policy", "value"), optimizers, strict=True):
                trained = self._trained(optimizer.optimizer)
                norm = self.finish_gradients(trained, 1.0, self.max_grad_norm, metrics["loss"])
                metrics[f"{network}/grad_norm"] = norm
                # Only one step of a rollout goes by way of Lightning, which counts them: its steps are rollouts.
                (optimizer if done == 0 and network == "policy" else optimizer.optimizer).step()
                optimizer.optimizer.zero_grad()
            done += 1
            totals.update(metrics)
            if self.target_kl is not None and metrics["policy/approx_kl"] > self.target_kl:
                break
        values = {name: total / done for name, total in totals.items()}
        values["lr"] = optimizers[0].optimizer.param_groups[0]["lr"]
        return {**values, "updates": float(done)}

    def _gradients(self, experience: Experience, share: Tensor, check: bool) -> dict[str, Tensor]:
        """Adds up the gradients of one minibatch. Returns its metrics, detached."""
        tokens = experience.sequences.mask[share].sum()
        sums: dict[str, Tensor] = {}
        for rows in self._micro(share):
            part = experience.select(rows)
            mask = part.sequences.mask
            logps, _ = completion_logps(self.model, part.sequences, self.temperature)
            if check:
                _check_equal("the ratio of the first update is not 1", logps.detach(), part.logps, mask)
            values = completion_values(self.value, part.sequences)
            policy_loss, metrics = policy.ppo_policy_loss(logps, part.logps, part.advantages, mask, self.clip_range)
            value_loss, more = policy.ppo_value_loss(values, part.values, part.returns, mask, self.value_clip_range)
            loss = policy_loss + self.vf_coef * value_loss
            weight = mask.sum() / tokens  # means over parts become the mean over the minibatch
            self.manual_backward(loss * weight)
            metrics |= {**more, "loss/policy": policy_loss, "loss/value": value_loss, "loss": loss}
            for name, value in metrics.items():
                sums[name] = sums.get(name, torch.zeros((), device=mask.device)) + weight * value.detach()
        return sums

    def _shares(self, rows: int, generator: torch.Generator) -> list[Tensor]:
        """The rows of a rollout, shuffled and shared out over the updates of an epoch."""
        order = torch.randperm(rows, generator=generator).to(self.device)
        return list(torch.tensor_split(order, min(self.minibatches, rows)))

    def _micro(self, share: Tensor) -> Iterator[Tensor]:
        yield from torch.split(share, self.micro_batch_size or len(share))

    def _numbers(self, named: dict[str, Tensor]) -> dict[str, float]:
        """Means over ranks, so that all decide alike (to stop early, to drop an update), in one wait for the device."""
        stacked = torch.stack([value.detach().to(self.device, torch.float32) for value in named.values()])
        if self.trainer.world_size > 1:
            stacked = self.trainer.strategy.reduce(stacked, reduce_op="mean")
        return dict(zip(named, stacked.tolist(), strict=True))

    def _adapt(self, kl: float, answers: int) -> None:
        if self.adaptive_kl_target is not None:
            horizon, answers = float(self.adaptive_kl_horizon), answers * self.trainer.world_size
            coef = float(self.adapted_kl_coef)
            coef = policy.adapted_kl_coef(coef, kl, self.adaptive_kl_target, horizon, answers)
            self.adapted_kl_coef.fill_(coef)

    # Validation: the same answers' randomness every time

    def validation_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """``val/<source>/``: scores, kl (in nats an answer), response_length, eos_rate; the loss is minus the score."""
        rollout = self._sample(batch, torch.Generator().manual_seed(_mixed(self.seed, batch_idx, -1)))
        scores, sequences = self._scores(rollout, batch), Sequences.of(rollout)
        with torch.no_grad():
            logps, reference = (
                completion_logps(net, sequences, self.temperature)[0] for net in (self.model, self.reference)
            )
        metrics = {
            "scores": scores.sum(),
            "kl": (logps - reference).sum(),
            "response_length": sequences.mask.sum(),
            "eos_rate": rollout.finished.sum(),
        }
        self._validation[dataloader_idx].add(-scores.sum(), torch.tensor(len(scores)), metrics)


def _mixed(seed: int, number: int, rank: int) -> int:
    """A seed of its own for every rollout and rank."""
    return (seed * 1_000_003 + number * 65_537 + rank + 1) % 2**63


def _check_equal(what: str, one: Tensor, two: Tensor, mask: Tensor) -> None:
    gap = float(policy.masked_mean((one - two).abs(), mask))
    if not gap < START_TOLERANCE:
        raise UserError(f"PPO's start: {what}: {gap:.3g} nats a token before any update, and should not at all")
