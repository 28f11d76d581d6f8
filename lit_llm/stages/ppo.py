"""PPO: the policy answers prompts, a reward scores the answers, and both it and a value network learn from them.

InstructGPT's form (arXiv:2203.02155): per-token KL penalty against the frozen reference, the score at the last token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_llm.backbone.completions import completion_logps
from lit_llm.objectives import policy
from lit_llm.records import Rollout
from lit_llm.stages.experience import Experience, Sequences
from lit_llm.stages.initial_model import Policy, initial_model
from lit_llm.stages.on_policy import OnPolicy
from lit_llm.stages.options import PPOOptions
from lit_llm.stages.ppo_setup import value_network
from lit_llm.stages.pretraining_mix import PretrainingMix, next_token_loss, parts_of, trained_tokens


class PPO(OnPolicy):
    """A policy and a value network, each with an optimizer of its own.

    Args:
        options: ``PPOOptions``.

    Other arguments: ``OnPolicy``.
    """

    Options: ClassVar[type[PPOOptions]] = PPOOptions
    name: ClassVar[str] = "ppo"
    shared_out: ClassVar[tuple[str, ...]] = ("model", "reference", "value")
    default_lr: ClassVar[float] = 3e-6
    options: PPOOptions
    adapted_kl_coef: Tensor

    def __init__(
        self,
        options: PPOOptions | None = None,
        *,
        model: Policy,
        optimizer: Callable[[nn.Module], Optimizer] | None = None,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        reward: Any,
        tokenizer: Any = None,
        gold: Any = None,
    ) -> None:
        options = options or self.Options()
        network, tokenizer = initial_model(model, tokenizer, self.head, options)
        value = value_network(network, reward, options)  # before the policy gets adapters
        super().__init__(
            options,
            model=network,
            optimizer=optimizer,
            schedule=schedule,
            reward=reward,
            tokenizer=tokenizer,
            gold=gold,
        )
        penalty = options.missing_eos_penalty
        self.missing_eos_penalty = float(not options.bootstrap_truncated) if penalty is None else penalty
        self.value = value
        self.mix: PretrainingMix | None = None
        self._mix_state: dict[str, Any] = {}
        self.register_buffer("adapted_kl_coef", torch.tensor(options.kl_coef, dtype=torch.float32))
        self.train()

    def networks(self) -> dict[str, nn.Module]:
        return {"policy": self.model, "value": self.value}

    def configure_optimizers(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The policy's and the value network's, each with its schedule."""
        made = [self.make_optimizer(network) for network in self.networks().values()]
        for group in made[1].param_groups:
            group["lr"] *= self.options.value_lr_ratio
        return [{"optimizer": each, "lr_scheduler": self.make_schedule(each, self.total_steps())} for each in made]

    # What is mixed in, and its place in a resumed run

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.mix = PretrainingMix.of(self.trainer.datamodule, self.options.ptx_coef)  # type: ignore[attr-defined]
        if self.mix is not None and self._mix_state:
            self.mix.load_state_dict(self._mix_state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.mix is not None:
            checkpoint["pretraining_mix"] = self.mix.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._mix_state = checkpoint.get("pretraining_mix", {})
        if self.mix is not None and self._mix_state:  # a sharded run is restored after ``on_fit_start``
            self.mix.load_state_dict(self._mix_state)

    # One rollout and what is learned from it

    @torch.no_grad()
    def experience(
        self, sequences: Sequences, rollout: Rollout, scores: Tensor, parts: Sequence[Tensor], first: bool
    ) -> tuple[Experience, dict[str, float]]:
        options = self.options
        logps, reference, entropy = self.sampler.scored(sequences, parts, first)
        values, after = torch.zeros_like(logps), torch.zeros_like(scores)
        for rows in parts:
            part, places = sequences.packed(rows), sequences.places(rows)
            before, after[places] = self.value.completion_values(part)
            values[places] = sequences.matrix(part, before)
        mask, coef, cut = sequences.mask, float(self.adapted_kl_coef), ~rollout.finished
        penalised = scores - self.missing_eos_penalty * cut
        goes_on = cut & options.bootstrap_truncated  # its score would count twice: the value stands for it
        paid, after = penalised - scores * goes_on, after * goes_on
        experience = Experience.of(
            mask, logps, reference, values, paid, coef, options.gamma, options.lam, after, self.updater.sum_of_processes
        )
        kl, mean = torch.where(mask, policy.kl_k1(logps, reference), 0).sum(1), self.updater.mean
        total = self.updater.sum_of_processes
        named = {
            "objective/kl": mean(kl),
            "objective/scores": mean(scores),
            "objective/scores_std": self.updater.deviation(scores, torch.ones_like(cut)),
            "objective/non_score_reward": mean(-coef * kl),
            "objective/rlhf_reward": mean(penalised - coef * kl),
            "objective/response_length": mean(mask.sum(1).float()),
            "objective/eos_rate": mean(rollout.finished.float()),
            "objective/truncated": mean(cut.float()),
            "policy/entropy": mean(entropy, mask),
            "policy/sampling_gap": mean((logps - sequences.sampled_logps(rollout)).abs(), mask),
            "val/explained_variance": policy.explained_variance(values, experience.returns, mask, total),
        }
        return experience, {**self.updater.numbers(named), "objective/kl_coef": coef}

    def gradients(self, sequences: Sequences, experience: Experience, share: Tensor, check: bool) -> dict[str, Tensor]:
        options, trained = self.options, experience.mask[sequences.places(share)].sum()
        tokens = self.updater.mean_of_processes(trained.float())
        ptx = None if self.mix is None else self._pretraining_gradients(self.mix)
        sums: dict[str, Tensor] = {}
        parts = self.updater.parts(share)
        for number, rows in enumerate(parts, 1):
            part, packed = experience.select(sequences.places(rows)), sequences.packed(rows)
            mask = part.mask
            logps = sequences.matrix(packed, completion_logps(self.model, packed, options.temperature))
            if check:
                self.sampler.check_equal("the ratio of the first update is not 1", logps.detach(), part.logps, mask)
            values = sequences.matrix(packed, self.value.completion_values(packed)[0])
            policy_loss, metrics = policy.ppo_policy_loss(
                logps, part.logps, part.advantages, mask, options.clip_range, options.clip_range_high
            )
            value_loss, more = policy.ppo_value_loss(values, part.values, part.returns, mask, options.value_clip_range)
            loss = policy_loss + options.vf_coef * value_loss
            weight = mask.sum() / tokens  # means over parts become the mean over the minibatch
            self.updater.add_gradients(loss * weight, last=number == len(parts))
            metrics |= {**more, "loss/policy": policy_loss, "loss/value": value_loss, "loss": loss}
            for name, value in metrics.items():
                sums[name] = sums.get(name, torch.zeros((), device=mask.device)) + weight * value.detach()
        if ptx is not None:
            sums |= {"loss/ptx": ptx, "loss": sums["loss"] + options.ptx_coef * ptx}
        return sums

    def _pretraining_gradients(self, mix: PretrainingMix) -> Tensor:
        """Adds ``ptx_coef`` times the gradient of a batch's next-token loss. Returns that loss in nats a token."""
        batch = self.trainer.strategy.batch_to_device(mix.next(), self.device)
        tokens = self.updater.mean_of_processes(trained_tokens(batch).float())
        total = torch.zeros((), device=self.device)
        for part in parts_of(batch, self.options.micro_batch_size):
            loss = next_token_loss(self.model, part, tokens)
            self.updater.add_gradients(self.options.ptx_coef * loss, last=False)
            total += loss.detach()
        return total

    def after_updates(self, logged: dict[str, float], answers: int) -> None:
        """Steers the price of the KL, where that is asked for, by the answers of all processes."""
        kl, target = logged["objective/kl"], self.options.adaptive_kl_target
        if target is not None:
            every = int(self.updater.sum_of_processes(torch.tensor(answers)))
            horizon = float(self.options.adaptive_kl_horizon)
            coef = policy.adapted_kl_coef(float(self.adapted_kl_coef), kl, target, horizon, every)
            self.adapted_kl_coef.fill_(coef)
