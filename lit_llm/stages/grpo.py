"""GRPO: the policy answers each prompt several times, and answers that a reward likes better than their group's mean
become likelier (DeepSeekMath, arXiv:2402.03300). There is no value network; the reward is often a program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.lora import TARGETS
from lit_llm.backbone.models import LanguageModel
from lit_llm.evaluation.pass_at_k import doublings, pass_at_k
from lit_llm.objectives import group
from lit_llm.objectives.policy import kl_k1, masked_mean, masked_variance
from lit_llm.records import PromptBatch, Rollout
from lit_llm.rewards.verifiable import check_verifiable
from lit_llm.stages.experience import Sequences, completion_logps
from lit_llm.stages.grpo_checks import check_options
from lit_llm.stages.on_policy import OnPolicy


class GroupExperience(NamedTuple):
    """What one rollout teaches; everything is fixed while the policy is updated."""

    sequences: Sequences
    logps: Tensor  # (B, C) under the policy that sampled, scored as in training
    reference: Tensor  # (B, C)
    advantages: Tensor  # (B,) one for all tokens of an answer
    learned: Tensor  # (B, C) bool: the tokens that are learned from

    def select(self, rows: Tensor) -> GroupExperience:
        return GroupExperience(self.sequences.select(rows), *(matrix[rows] for matrix in self[1:]))


class GRPO(OnPolicy):
    """Args:
    group_size: G, answers to each prompt. A rollout has data.micro_batch_size times G answers on every device.
    scale: what an advantage is divided by: none, or the standard deviation of its group or of the batch.
    eps_low, eps_high: how far below and above 1 the ratio may learn.
    ratio: whose ratio to the policy that sampled is clipped: token, or sequence (GSPO, arXiv:2507.18071: the answer's,
        its geometric mean over tokens; with aggregation sequence_mean and bounds such as 3e-4 and 4e-4).
    delta: where the ratio of a bad answer stops to count, above 1 + eps_high (two-sided clipping, arXiv:2505.07291);
        None: nowhere.
    aggregation: token_mean (every token counts alike), sequence_mean (every answer), constant (as token_mean, but over
        max_new_tokens for each answer, whatever its length).
    kl_coef: beta, the price of a nat away from the reference; 0: none.
    kl_in: where it is paid: loss (rho * k3 at every token) or reward (k1 of the whole answer, before the baseline).
    mask_truncated: answers cut by max_new_tokens are not learned from (their reward still counts in the baseline).
    success_at: reward from which an answer counts as right, for pass@k.
    validation_samples: answers to each validation prompt.

    Other arguments: ``OnPolicy``.
    """

    name: ClassVar[str] = "grpo"
    unverified_allowed: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: LanguageModel,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        reward: Any,
        tokenizer: Any = None,
        gold: Any = None,
        group_size: int = 8,
        scale: str = "none",
        eps_low: float = 0.2,
        eps_high: float = 0.28,
        ratio: str = "token",
        delta: float | None = None,
        aggregation: str = "token_mean",
        kl_coef: float = 0.0,
        kl_in: str = "loss",
        mask_truncated: bool = False,
        success_at: float = 1.0,
        validation_samples: int = 1,
        epochs: int = 1,
        minibatches: int = 1,
        micro_batch_size: int | None = None,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        max_grad_norm: float = 1.0,
        target_kl: float | None = None,
        reward_validation_every_n_steps: int | None = None,
        ignore_reward_validation: bool = False,
        end_ids: tuple[int, ...] | None = None,
        lora_rank: int = 0,
        lora_alpha: float = 32.0,
        lora_targets: Sequence[str] = TARGETS,
        base_model: str | None = None,
        seed: int = 0,
    ) -> None:
        options = {name: value for name, value in locals().items() if isinstance(value, int | float | str)}
        check_options(options)
        super().__init__(
            model=model,
            optimizer=optimizer,
            schedule=schedule,
            reward=reward,
            tokenizer=tokenizer,
            gold=gold,
            epochs=epochs,
            minibatches=minibatches,
            micro_batch_size=micro_batch_size,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            max_grad_norm=max_grad_norm,
            target_kl=target_kl,
            reward_validation_every_n_steps=reward_validation_every_n_steps,
            ignore_reward_validation=ignore_reward_validation,
            end_ids=end_ids,
            lora_rank=lora_rank,
            lora_alpha=lora_alpha,
            lora_targets=lora_targets,
            base_model=base_model,
            seed=seed,
        )
        self.group_size, self.scale, self.aggregation = group_size, scale, aggregation
        self.eps_low, self.eps_high, self.kl_coef, self.kl_in = eps_low, eps_high, kl_coef, kl_in
        self.ratio, self.delta = ratio, delta
        self.mask_truncated, self.success_at, self.validation_samples = mask_truncated, success_at, validation_samples
        self.remember(**options)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        check_verifiable(self.reward, getattr(self.trainer.datamodule, "prompts", ()))  # type: ignore[attr-defined]

    # One rollout and what is learned from it

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:  # type: ignore[override]  # noqa: ARG002
        number = self.global_step
        generator = self.randomness(number)
        rollout = self.sample(batch, generator, self.group_size)
        answers = self.answers(rollout, batch, self.group_size)
        scores = self.scores(answers)
        parts = self.scores_of_parts(scores)
        validated = self.validate_reward(answers, number)
        if self.ended:
            return
        plan = [self.shares(len(scores), generator) for _ in range(self.epochs)]
        experience, logged = self._experience(rollout, scores, plan[0], first=number == 0)
        logged |= self.numbers(parts) if parts else {}
        logged |= self.learn(plan, lambda share, first: self._gradients(experience, share, first))
        self.signs.tell(logged, number)
        self._tokens = int(rollout.lengths.sum())
        self.log_training(logged | validated)

    @torch.no_grad()
    def _experience(
        self, rollout: Rollout, scores: Tensor, shares: list[Tensor], first: bool
    ) -> tuple[GroupExperience, dict[str, float]]:
        sequences = Sequences.of(rollout)
        logps, reference, entropy = self.scored(sequences, shares, first)
        kl = kl_k1(logps, reference).sum(1)  # of the whole answer; both are 0 outside the mask
        rewards = scores - self.kl_coef * kl if self.kl_in == "reward" else scores
        variance = masked_variance(rewards, ~rewards.isnan(), self.sum_of_processes)
        advantages = group.group_advantages(rewards, self.group_size, self.scale, variance.sqrt())
        mask, finished = sequences.mask, rollout.finished
        learned = mask & finished[:, None] if self.mask_truncated else mask
        named = {
            **self._of_scores(scores),
            "objective/kl": kl.mean(),
            "objective/response_length": mask.sum(1).float().mean(),
            "objective/eos_rate": finished.float().mean(),
            "objective/truncated": 1 - finished.float().mean(),
            "policy/entropy": masked_mean(entropy, mask),
            "policy/sampling_gap": masked_mean((logps - sequences.dense(rollout.logps)).abs(), mask),
        }
        return GroupExperience(sequences, logps, reference, advantages, learned), self.numbers(named)

    def _of_scores(self, scores: Tensor) -> dict[str, Tensor]:
        """What is logged of a rollout's scores (B,), before the KL: means are over the answers that were verified."""
        known = scores[~scores.isnan()]
        zero = scores.new_zeros(())
        named = {
            "objective/scores": known.mean() if len(known) else zero,
            "objective/scores_std": known.std(unbiased=False) if len(known) else zero,
            "objective/unverified": scores.isnan().float().mean(),
            "objective/zero_std_groups": group.equal_rewards(scores, self.group_size).float().mean(),
        }
        passed = self._passed(scores, self.group_size)
        return {**named, **{f"objective/{name}": each.mean() for name, each in passed.items()}}

    def _passed(self, scores: Tensor, samples: int) -> dict[str, Tensor]:
        """pass@k of each prompt (P,) for k = 1, 2, 4, ...; an answer that was not verified is not right."""
        right = (scores >= self.success_at).view(-1, samples).sum(1).cpu().numpy()
        return {f"pass@{k}": scores.new_tensor(pass_at_k(right, samples, k)) for k in doublings(samples)}

    def _gradients(self, experience: GroupExperience, share: Tensor, check: bool) -> dict[str, Tensor]:
        """Adds up the gradients of one minibatch. Returns its metrics, detached.

        A minibatch that teaches nothing leaves no gradient, not one of zeros: Adam would forget how large gradients
        are, and take its next step, from a single group, at full size.
        """
        learned, paid = experience.learned[share], bool(self.kl_coef) and self.kl_in == "loss"
        taught = learned.any(1) & (paid | (experience.advantages[share] != 0))
        teaches = bool(self.most_of_processes(taught.any().int()))
        tokens = self.mean_of_processes(learned.sum().float())
        weights = group.token_weights(learned, self.aggregation, self.max_new_tokens, tokens)
        sums: dict[str, Tensor] = {}
        parts = list(self.micro(_places(taught)))
        for number, places in enumerate(parts, 1):
            part = experience.select(share[places])
            mask = part.sequences.mask
            logps, _ = completion_logps(self.model, part.sequences, self.temperature)
            if check:
                self.check_equal("the ratio of the first update is not 1", logps.detach(), part.logps, mask)
            loss, metrics = group.grpo_loss(
                logps,
                part.logps,
                part.advantages,
                weights[places],
                self.eps_low,
                self.eps_high,
                part.reference,
                self.kl_coef if paid else 0.0,
                self.ratio,
                self.delta,
            )
            if teaches:
                self.add_gradients(loss, last=number == len(parts))
            for name, value in {**metrics, "loss": loss.detach()}.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value
        counted = sums.pop("tokens").clamp_min(1)
        return {name: value if name == "loss" else value / counted for name, value in sums.items()}

    # Validation: the share of right answers with its standard error over prompts

    def judged(self, scores: Tensor) -> dict[str, Tensor]:
        """``success`` (which is pass@1), its squares for the error, and pass@k, each times the answers of a prompt."""
        samples = self.validation_samples
        passed = self._passed(scores, samples)
        success = passed.pop("pass@1")
        sums = {"success": success, "success_squares": success.square(), **passed}
        return {name: each.sum() * samples for name, each in sums.items()}

    def derived(self, totals: dict[str, float]) -> dict[str, float]:
        """Adds ``success_se``, the standard error of ``success`` over prompts."""
        values = super().derived(totals)
        spread = values.pop("success_squares") - values["success"] ** 2
        prompts = totals["count"] / self.validation_samples
        return {**values, "success_se": (max(spread, 0.0) / max(prompts - 1, 1)) ** 0.5}


def _places(taught: Tensor) -> Tensor:
    """The places of a minibatch's answers (B,) that have a gradient, or all where none has. The rest cost nothing, and
    metrics of the update are over what is left.
    """
    some = taught.nonzero().flatten()
    return some if len(some) else torch.arange(len(taught), device=taught.device)
