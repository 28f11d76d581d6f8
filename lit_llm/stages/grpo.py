"""GRPO: the policy answers each prompt several times, and answers that a reward likes better than their group's mean
become likelier (DeepSeekMath, arXiv:2402.03300). There is no value network; the reward is often a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from lit_llm.backbone.completions import completion_logps
from lit_llm.evaluation.pass_at_k import doublings, pass_at_k
from lit_llm.objectives import group
from lit_llm.objectives.policy import kl_k1, masked_variance
from lit_llm.records import Rollout
from lit_llm.rewards.verifiable import check_verifiable
from lit_llm.runtime.host_copies import sent
from lit_llm.stages.experience import Sequences
from lit_llm.stages.on_policy import OnPolicy
from lit_llm.stages.options import GRPOOptions


class GroupExperience(NamedTuple):
    """What one rollout teaches; everything is fixed while the policy is updated."""

    mask: Tensor  # (B, C) bool
    logps: Tensor  # (B, C) under the policy that sampled, scored as in training
    reference: Tensor  # (B, C)
    advantages: Tensor  # (B,) one for all tokens of an answer
    learned: Tensor  # (B, C) bool: the tokens that are learned from
    taught: Tensor  # (B,) bool, on the CPU: the answer has a gradient

    def select(self, rows: Tensor, places: Tensor) -> GroupExperience:
        """The rows (b,), which are on the CPU; ``places`` are the same on the device."""
        return GroupExperience._make([*(matrix[places] for matrix in self[:-1]), self.taught[rows]])


class GRPO(OnPolicy):
    """A policy alone, whose answers to a prompt are measured by each other.

    Args:
        options: ``GRPOOptions``.

    Other arguments: ``OnPolicy``.
    """

    Options: ClassVar[type[GRPOOptions]] = GRPOOptions
    name: ClassVar[str] = "grpo"
    default_lr: ClassVar[float] = 1e-6
    unverified_allowed: ClassVar[bool] = True
    options: GRPOOptions

    @property
    def group_size(self) -> int:
        return self.options.group_size

    @property
    def validation_samples(self) -> int:
        return self.options.validation_samples

    def on_fit_start(self) -> None:
        super().on_fit_start()
        check_verifiable(self.reward, getattr(self.trainer.datamodule, "prompts", ()))  # type: ignore[attr-defined]

    # One rollout and what is learned from it

    @torch.no_grad()
    def experience(
        self, sequences: Sequences, rollout: Rollout, scores: Tensor, parts: Sequence[Tensor], first: bool
    ) -> tuple[GroupExperience, dict[str, float]]:
        logps, reference, entropy = self.sampler.scored(sequences, parts, first)
        kl = kl_k1(logps, reference).sum(1)  # of the whole answer; both are 0 outside the mask
        rewards = scores - self.options.kl_coef * kl if self.options.kl_in == "reward" else scores
        variance = masked_variance(rewards, ~rewards.isnan(), self.updater.sum_of_processes)
        advantages = group.group_advantages(rewards, self.group_size, self.options.scale, variance.sqrt())
        mask, finished, mean = sequences.mask, rollout.finished, self.updater.mean
        learned = mask & finished[:, None] if self.options.mask_truncated else mask
        taught = learned.any(1) & (self._pays_in_loss | (advantages != 0))
        named = {
            **self._of_scores(scores),
            "objective/kl": mean(kl),
            "objective/response_length": mean(mask.sum(1).float()),
            "objective/eos_rate": mean(finished.float()),
            "objective/truncated": mean((~finished).float()),
            "policy/entropy": mean(entropy, mask),
            "policy/sampling_gap": mean((logps - sequences.sampled_logps(rollout)).abs(), mask),
        }
        experience = GroupExperience(mask, logps, reference, advantages, learned, taught.cpu())
        return experience, self.updater.numbers(named)

    @property
    def _pays_in_loss(self) -> bool:
        """Whether every token has a gradient, that of its KL."""
        return bool(self.options.kl_coef) and self.options.kl_in == "loss"

    def _of_scores(self, scores: Tensor) -> dict[str, Tensor]:
        """What is logged of a rollout's scores (B,), before the KL: means are over the answers that were verified."""
        unknown, mean = scores.isnan(), self.updater.mean
        named = {
            "objective/scores": mean(scores, ~unknown),
            "objective/scores_std": self.updater.deviation(scores, ~unknown),
            "objective/unverified": mean(unknown.float()),
            "objective/zero_std_groups": mean(group.equal_rewards(scores, self.group_size).float()),
        }
        passed = self._passed(scores, self.group_size)
        return {**named, **{f"objective/{name}": mean(each) for name, each in passed.items()}}

    def _passed(self, scores: Tensor, samples: int) -> dict[str, Tensor]:
        """pass@k of each prompt (P,) for k = 1, 2, 4, ...; an answer that was not verified is not right."""
        right = (scores >= self.options.success_at).view(-1, samples).sum(1).cpu().numpy()
        return {f"pass@{k}": scores.new_tensor(pass_at_k(right, samples, k)) for k in doublings(samples)}

    def gradients(
        self, sequences: Sequences, experience: GroupExperience, share: Tensor, check: bool
    ) -> dict[str, Tensor]:
        """Adds up the gradients of one minibatch. Returns its metrics, detached.

        A minibatch that teaches nothing leaves no gradient, not one of zeros: Adam would forget how large gradients
        are, and take its next step, from a single group, at full size.
        """
        learned, taught = experience.learned[sequences.places(share)], experience.taught[share]
        teaches = bool(self.updater.most_of_processes(taught.any().int()))
        mean = self.updater.mean_of_processes
        tokens = mean(learned.sum().float())
        answers = mean(torch.full((), float(len(learned)), device=learned.device))
        weights = group.token_weights(learned, self.options.aggregation, self.options.max_new_tokens, tokens, answers)
        if teaches:  # what an answer without a gradient adds is 0, and no metric is over it
            weights = weights * sent(taught, weights.device)[:, None]
        sums: dict[str, Tensor] = {}
        # Where a pass is one of all processes, they need as many: none leaves answers out.
        learns = _places(taught) if self.sharding is None else torch.arange(len(taught))
        parts = self.updater.parts(learns)
        for number, places in enumerate(parts, 1):
            rows = share[places]
            part, packed = experience.select(rows, sequences.places(rows)), sequences.packed(rows)
            logps = sequences.matrix(packed, completion_logps(self.model, packed, self.options.temperature))
            if check:
                told = "the ratio of the first update is not 1"
                self.sampler.check_equal(told, logps.detach(), part.logps, part.mask)
            loss, metrics = group.grpo_loss(
                logps,
                part.logps,
                part.advantages,
                weights[sent(places, weights.device)],
                self.options.eps_low,
                self.options.eps_high,
                part.reference,
                self.options.kl_coef if self._pays_in_loss else 0.0,
                self.options.ratio,
                self.options.delta,
            )
            if teaches:
                self.updater.add_gradients(loss, last=number == len(parts))
            for name, value in {**metrics, "loss": loss.detach()}.items():
                sums[name] = sums.get(name, torch.zeros((), device=value.device)) + value
        counted = mean(sums.pop("tokens")).clamp_min(1)
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
    """The places of a minibatch's answers (B,) that have a gradient, or all where none has. The rest cost nothing."""
    some = taught.nonzero().flatten()
    return some if len(some) else torch.arange(len(taught))
