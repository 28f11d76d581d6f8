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

from lit_llm.backbone.lora import TARGETS
from lit_llm.backbone.models import LanguageModel
from lit_llm.objectives import policy
from lit_llm.records import PromptBatch, Rollout
from lit_llm.stages.experience import Experience, Sequences, completion_logps, completion_values
from lit_llm.stages.on_policy import OnPolicy
from lit_llm.stages.ppo_setup import Adapters, check_options, value_network
from lit_llm.stages.pretraining_mix import PretrainingMix, next_token_loss, parts_of, trained_tokens


class PPO(OnPolicy):
    """Args:
    kl_coef: beta, the price of a nat away from the reference; 0 is allowed.
    clip_range, value_clip_range: eps of the ratio, and of values in units of the score.
    clip_range_high: eps of the ratio's upper bound (DAPO's clip-higher: 0.28 with clip_range 0.2); None: clip_range.
    vf_coef: weight of the value loss.
    gamma, lam: of GAE.
    missing_eos_penalty: taken from the score of an answer cut by max_new_tokens; None: 1, or 0 with
        bootstrap_truncated.
    bootstrap_truncated: an answer cut by max_new_tokens ends with the value of the state that it was cut in, in place
        of its score: the episode goes on, only out of sight (arXiv:1712.00378).
    value_init: "reward": from the reward model where there is one; "zero": the policy's transformer and a zero head.
    value_lr_ratio: the value network's learning rate over the policy's.
    adaptive_kl_target: KL per answer in nats that kl_coef is steered to; None: it stays.
    adaptive_kl_horizon: answers over which it is steered.
    ptx_coef: gamma of PPO-ptx (InstructGPT, equation 2: 27.8), the weight of the mean next-token loss on pretraining
        text that the data gives (data.ptx_path), a batch of it with every update; 0: none.

    Other arguments: ``OnPolicy``.
    """

    name: ClassVar[str] = "ppo"
    adapted_kl_coef: Tensor

    def __init__(
        self,
        *,
        model: LanguageModel,
        optimizer: Callable[[nn.Module], Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        reward: Any,
        tokenizer: Any = None,
        gold: Any = None,
        kl_coef: float = 0.05,
        clip_range: float = 0.2,
        clip_range_high: float | None = None,
        value_clip_range: float = 0.2,
        vf_coef: float = 0.1,
        gamma: float = 1.0,
        lam: float = 0.95,
        epochs: int = 4,
        minibatches: int = 1,
        micro_batch_size: int | None = None,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        missing_eos_penalty: float | None = None,
        bootstrap_truncated: bool = False,
        max_grad_norm: float = 1.0,
        value_init: str = "reward",
        value_lr_ratio: float = 1.0,
        target_kl: float | None = None,
        adaptive_kl_target: float | None = None,
        adaptive_kl_horizon: int = 10_000,
        ptx_coef: float = 0.0,
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
        adapters = Adapters(lora_rank, lora_alpha, tuple(lora_targets)) if lora_rank > 0 else None
        value = value_network(model, reward, value_init, adapters)  # before the policy gets adapters
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
        self.clip_range, self.value_clip_range, self.vf_coef = clip_range, value_clip_range, vf_coef
        self.clip_range_high = clip_range_high
        self.gamma, self.lam, self.bootstrap_truncated = gamma, lam, bootstrap_truncated
        penalty = missing_eos_penalty
        self.missing_eos_penalty = float(not bootstrap_truncated) if penalty is None else penalty
        self.value_lr_ratio, self.ptx_coef = value_lr_ratio, ptx_coef
        self.adaptive_kl_target, self.adaptive_kl_horizon = adaptive_kl_target, adaptive_kl_horizon
        self.value = value
        self.mix: PretrainingMix | None = None
        self._mix_state: dict[str, Any] = {}
        self.register_buffer("adapted_kl_coef", torch.tensor(kl_coef, dtype=torch.float32))
        self.train()
        self.remember(**options)

    def networks(self) -> dict[str, nn.Module]:
        return {"policy": self.model, "value": self.value}

    def configure_optimizers(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The policy's and the value network's, each with its schedule."""
        made = [self.make_optimizer(network) for network in self.networks().values()]
        for group in made[1].param_groups:
            group["lr"] *= self.value_lr_ratio
        return [{"optimizer": each, "lr_scheduler": self.make_schedule(each, self.total_steps())} for each in made]

    # What is mixed in, and its place in a resumed run

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.mix = PretrainingMix.of(self.trainer.datamodule, self.ptx_coef)  # type: ignore[attr-defined]
        if self.mix is not None and self._mix_state:
            self.mix.load_state_dict(self._mix_state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.mix is not None:
            checkpoint["pretraining_mix"] = self.mix.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._mix_state = checkpoint.get("pretraining_mix", {})

    # One rollout and what is learned from it

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:  # type: ignore[override]  # noqa: ARG002
        number = self.global_step
        generator = self.randomness(number)
        rollout = self.sample(batch, generator)
        answers = self.answers(rollout, batch)
        scores = self.scores(answers)
        parts = self.scores_of_parts(scores)
        validated = self.validate_reward(answers, number)
        if self.ended:
            return
        plan = [self.shares(len(scores), generator) for _ in range(self.epochs)]
        experience, logged = self._experience(rollout, scores, plan[0], first=number == 0)
        logged |= self.numbers(parts) if parts else {}
        logged |= self.learn(plan, lambda share, first: self._gradients(experience, share, first))
        self._adapt(logged["objective/kl"], len(scores))
        self.signs.tell(logged, number)
        self._tokens = int(rollout.lengths.sum())
        self.log_training(logged | validated)

    @torch.no_grad()
    def _experience(
        self, rollout: Rollout, scores: Tensor, shares: list[Tensor], first: bool
    ) -> tuple[Experience, dict[str, float]]:
        sequences = Sequences.of(rollout)
        logps, reference, entropy = self.scored(sequences, shares, first)
        values, after = torch.zeros_like(logps), torch.zeros_like(scores)
        for rows in (micro for share in shares for micro in self.micro(share)):
            values[rows], after[rows] = completion_values(self.value, sequences.select(rows))
        mask, coef, cut = sequences.mask, float(self.adapted_kl_coef), ~rollout.finished
        penalised = scores - self.missing_eos_penalty * cut
        goes_on = cut & self.bootstrap_truncated  # its score would count twice: the value stands for it
        paid, after = penalised - scores * goes_on, after * goes_on
        experience = Experience.of(
            sequences, logps, reference, values, paid, coef, self.gamma, self.lam, after, self.sum_of_processes
        )
        kl = torch.where(mask, policy.kl_k1(logps, reference), 0).sum(1)
        named = {
            "objective/kl": kl.mean(),
            "objective/scores": scores.mean(),
            "objective/scores_std": scores.std(unbiased=False),
            "objective/non_score_reward": (-coef * kl).mean(),
            "objective/rlhf_reward": (penalised - coef * kl).mean(),
            "objective/response_length": mask.sum(1).float().mean(),
            "objective/eos_rate": rollout.finished.float().mean(),
            "objective/truncated": cut.float().mean(),
            "policy/entropy": policy.masked_mean(entropy, mask),
            "policy/sampling_gap": policy.masked_mean((logps - sequences.dense(rollout.logps)).abs(), mask),
            "val/explained_variance": policy.explained_variance(values, experience.returns, mask),
        }
        return experience, {**self.numbers(named), "objective/kl_coef": coef}

    def _gradients(self, experience: Experience, share: Tensor, check: bool) -> dict[str, Tensor]:
        """Adds up the gradients of one minibatch. Returns its metrics, detached."""
        tokens = self.mean_of_processes(experience.sequences.mask[share].sum().float())
        ptx = None if self.mix is None else self._pretraining_gradients(self.mix)
        sums: dict[str, Tensor] = {}
        parts = list(self.micro(share))
        for number, rows in enumerate(parts, 1):
            part = experience.select(rows)
            mask = part.sequences.mask
            logps, _ = completion_logps(self.model, part.sequences, self.temperature)
            if check:
                self.check_equal("the ratio of the first update is not 1", logps.detach(), part.logps, mask)
            values, _ = completion_values(self.value, part.sequences)
            policy_loss, metrics = policy.ppo_policy_loss(
                logps, part.logps, part.advantages, mask, self.clip_range, self.clip_range_high
            )
            value_loss, more = policy.ppo_value_loss(values, part.values, part.returns, mask, self.value_clip_range)
            loss = policy_loss + self.vf_coef * value_loss
            weight = mask.sum() / tokens  # means over parts become the mean over the minibatch
            self.add_gradients(loss * weight, last=number == len(parts))
            metrics |= {**more, "loss/policy": policy_loss, "loss/value": value_loss, "loss": loss}
            for name, value in metrics.items():
                sums[name] = sums.get(name, torch.zeros((), device=mask.device)) + weight * value.detach()
        if ptx is not None:
            sums |= {"loss/ptx": ptx, "loss": sums["loss"] + self.ptx_coef * ptx}
        return sums

    def _pretraining_gradients(self, mix: PretrainingMix) -> Tensor:
        """Adds ``ptx_coef`` times the gradient of a batch's next-token loss. Returns that loss in nats a token."""
        batch = self.trainer.strategy.batch_to_device(mix.next(), self.device)
        tokens = self.mean_of_processes(trained_tokens(batch).float())
        total = torch.zeros((), device=self.device)
        for part in parts_of(batch, self.micro_batch_size):
            loss = next_token_loss(self.model, part, tokens)
            self.add_gradients(self.ptx_coef * loss, last=False)
            total += loss.detach()
        return total

    def _adapt(self, kl: float, answers: int) -> None:
        if self.adaptive_kl_target is not None:
            horizon, answers = float(self.adaptive_kl_horizon), answers * self.trainer.world_size
            coef = float(self.adapted_kl_coef)
            coef = policy.adapted_kl_coef(coef, kl, self.adaptive_kl_target, horizon, answers)
            self.adapted_kl_coef.fill_(coef)
