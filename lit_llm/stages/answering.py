"""Answers to prompts: sampled, scored by a reward, and read again by the policy and its reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lit_llm.backbone.completions import completion_logps, logps_and_entropy
from lit_llm.backbone.lora import lora_disabled
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.sampling import generate
from lit_llm.objectives.policy import kl_k1, masked_mean
from lit_llm.records import Prompt, PromptBatch, Rollout
from lit_llm.rewards.base import Reward
from lit_llm.rewards.scoring import Answers, check_finite, score
from lit_llm.stages.answer_room import check_room
from lit_llm.stages.experience import Sequences
from lit_llm.stages.kept import NO_REFERENCE
from lit_llm.stages.options import RolloutOptions
from lit_llm.stages.processes import Processes

START_TOLERANCES = {torch.bfloat16: 0.05, torch.float16: 0.05, torch.float32: 1e-3, torch.float64: 1e-6}
"""Nats a token by which equal networks may differ; a real difference (dropout, another model) is larger."""


class Scored(NamedTuple):
    """The policy's and the reference's view of a rollout: (B, C), 0 outside the mask."""

    logps: Tensor
    reference: Tensor
    entropy: Tensor


class Answering(Processes):
    """What a stage does with a policy before it learns anything. ``OnPolicy`` documents and sets the attributes."""

    unverified_allowed: ClassVar[bool] = False  # whether a reward may say NaN: it could not verify the answer
    options: RolloutOptions
    model: LanguageModel
    reference: LanguageModel | None  # None: the policy without its adapters
    reward: Reward
    gold: Reward | None
    end_ids: tuple[int, ...]
    gold_by_prompt: dict[str, list[Tensor]]  # by source: what gold gives each validation prompt, batch by batch

    @property
    def validation_samples(self) -> int:
        """Answers to each validation prompt."""
        return 1

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

    def randomness(self, number: int) -> torch.Generator:
        """The random numbers of a rollout on this rank: from the seed and the rollout's number alone."""
        return torch.Generator().manual_seed(_mixed(self.options.seed, number, self.global_rank))

    def sample(self, batch: PromptBatch, generator: torch.Generator, samples: int = 1) -> Rollout:
        """``samples`` answers to each prompt, side by side."""
        check_room(int(batch.lengths.max()), self.options.max_new_tokens, self.model.config.max_positions)
        return generate(
            self.model,
            (batch.input_ids, batch.lengths),
            max_new_tokens=self.options.max_new_tokens,
            end_ids=self.end_ids,
            temperature=self.options.temperature,
            samples=samples,
            generator=generator,
            batch_size=samples * len(batch.lengths),
        )

    def answers(self, rollout: Rollout, batch: PromptBatch, samples: int = 1) -> Answers:
        """The rollout as rewards read it."""

        def prompts() -> list[Prompt]:
            known = getattr(self.trainer.datamodule, "prompts", None)  # type: ignore[attr-defined]
            if known is None:
                raise UserError("reward: reads texts, but the data has no `prompts` to find them in; use data=prompts")
            return [known[index] for index in batch.indices.tolist() for _ in range(samples)]

        return Answers(rollout, prompts, lambda ids: self.tokenizer.decode(ids))

    def scores(self, answers: Answers) -> Tensor:
        """The reward's scores (B,), before penalties. Raises UserError where one is no finite number (or NaN, where
        the stage allows that)."""
        return self._scores(self.reward, answers, "reward")

    def _scores(self, reward: Any, answers: Answers, name: str) -> Tensor:
        scores = score(reward, answers, name)
        known = scores.nan_to_num(posinf=torch.inf, neginf=-torch.inf) if self.unverified_allowed else scores
        check_finite(known, name)
        return scores

    @contextmanager
    def as_reference(self) -> Iterator[LanguageModel]:
        """The reference: the frozen copy, or the policy without its adapters while this lasts."""
        if self.reference is not None:
            yield self.reference
            return
        if not self.lora_rank:
            raise UserError(NO_REFERENCE)
        with lora_disabled(self.model):
            yield self.model

    @torch.no_grad()
    def scored(self, sequences: Sequences, shares: Sequence[Tensor], first: bool) -> Scored:
        """Log-probabilities by policy and reference, in the batches that the first epoch's updates are made of; checked
        on the first rollout.

        The log-probabilities kept from sampling came through a cache: their rounding must not pass for a change. An
        update that leaves answers out (GRPO's without an advantage) has other batches, which round a little otherwise.
        """
        logps, reference, entropy = (torch.zeros(sequences.mask.shape, device=self.device) for _ in range(3))
        temperature = self.options.temperature
        for rows in (micro for share in shares for micro in self.micro(share)):
            part = sequences.packed(rows)
            own, spread = logps_and_entropy(self.model, part, temperature)
            logps[rows], entropy[rows] = sequences.matrix(part, own), sequences.matrix(part, spread)
            with self.as_reference() as network:
                reference[rows] = sequences.matrix(part, completion_logps(network, part, temperature))
        if first:
            self.check_equal("policy and reference differ", logps, reference, sequences.mask)
        return Scored(logps, reference, entropy)

    # Validation: the same answers' randomness every time

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.gold_by_prompt = {}

    @torch.no_grad()
    def validation_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """``val/<source>/``: scores, gold, kl (nats an answer), response_length, eos_rate; the loss is minus the score.

        An answer that could not be verified counts as the mean of those that could.
        """
        generator = torch.Generator().manual_seed(_mixed(self.options.seed, batch_idx, -1))
        rollout = self.sample(batch, generator, self.validation_samples)
        answers, sequences = self.answers(rollout, batch, self.validation_samples), Sequences(rollout)
        total, scores = len(rollout.lengths), self.scores(answers)
        scored = self.scored(sequences, [torch.arange(total)], first=False)
        metrics = {
            **self.judged(scores),
            "scores": scores.nanmean().nan_to_num() * total,
            "kl": kl_k1(scored.logps, scored.reference).sum(),
            "response_length": sequences.mask.sum(),
            "eos_rate": rollout.finished.sum(),
        }
        if self.gold is not None:
            gold = self._scores(self.gold, answers, "gold")
            metrics["gold"] = gold.nanmean().nan_to_num() * total
            means = gold.view(-1, self.validation_samples).nanmean(1).cpu()
            self.gold_by_prompt.setdefault(self.validation_names()[dataloader_idx], []).append(means)
        self._validation[dataloader_idx].add(-metrics["scores"], torch.tensor(total), metrics)

    def judged(self, scores: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """What else validation says of an answer's score (B,), summed over the answers."""
        return {}

    def micro(self, share: Tensor) -> Iterator[Tensor]:
        yield from torch.split(share, self.options.micro_batch_size or len(share))

    def check_equal(self, what: str, one: Tensor, two: Tensor, mask: Tensor) -> None:
        """Raises UserError where (B, C) log-probabilities that must be one are not: dropout, another model."""
        kind, dtype = self.device.type, next(self.model.parameters()).dtype
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
        gap = float(masked_mean((one - two).abs(), mask))
        if not gap < START_TOLERANCES[dtype]:
            raise UserError(f"the start: {what}: {gap:.3g} nats a token before any update, and should not at all")


def _mixed(seed: int, number: int, rank: int) -> int:
    """A seed of its own for every rollout and rank."""
    return (seed * 1_000_003 + number * 65_537 + rank + 1) % 2**63
