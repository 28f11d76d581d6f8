"""Answers to prompts: sampled, scored by a reward, and read again by the policy and its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from lit_llm.backbone.completions import completion_logps, logps_and_entropy
from lit_llm.backbone.lora import lora_disabled
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.sampling import generate
from lit_llm.objectives.policy import masked_mean
from lit_llm.records import PromptBatch, Rollout
from lit_llm.rewards.base import Reward
from lit_llm.rewards.scoring import Answers, check_finite, score
from lit_llm.stages.checkpoint_contents import NO_REFERENCE
from lit_llm.stages.experience import Sequences
from lit_llm.stages.length_checks import check_answer_fits
from lit_llm.stages.options import RolloutOptions

START_TOLERANCES = {torch.bfloat16: 0.05, torch.float16: 0.05, torch.float32: 1e-3, torch.float64: 1e-6}
"""Nats a token by which equal networks may differ; a real difference (dropout, another model) is larger."""


class Scored(NamedTuple):
    """The policy's and the reference's view of a rollout: (B, C), 0 outside the mask."""

    logps: Tensor
    reference: Tensor
    entropy: Tensor


class RolloutSampler:
    """What is done with a policy before anything is learned.

    Args:
        policy: answers.
        reference: what the policy was at the start, frozen; None: the policy without its adapters.
        end_ids: any of these ends an answer.
        unverified_allowed: whether a reward may say NaN: it could not verify the answer.
        whole: gives the policy with all its weights in this process, where they are spread over several.
    """

    def __init__(
        self,
        policy: LanguageModel,
        reference: LanguageModel | None,
        options: RolloutOptions,
        end_ids: tuple[int, ...],
        unverified_allowed: bool,
        whole: Callable[[], AbstractContextManager[LanguageModel]] | None = None,
    ) -> None:
        self.policy, self.reference, self.options = policy, reference, options
        self.end_ids, self.unverified_allowed = end_ids, unverified_allowed
        self.whole = whole or (lambda: nullcontext(policy))

    def randomness(self, number: int, rank: int) -> torch.Generator:
        """The random numbers of a rollout on a rank: from the seed and the rollout's number alone."""
        return torch.Generator().manual_seed((self.options.seed * 1_000_003 + number * 65_537 + rank + 1) % 2**63)

    def sample(self, batch: PromptBatch, generator: torch.Generator, samples: int = 1) -> Rollout:
        """``samples`` answers to each prompt, side by side."""
        check_answer_fits(int(batch.lengths.max()), self.options.max_new_tokens, self.policy.config.max_positions)
        with self.whole() as policy:  # gathered once a rollout: its layers are asked for at every token
            return generate(
                policy,
                (batch.input_ids, batch.lengths),
                max_new_tokens=self.options.max_new_tokens,
                end_ids=self.end_ids,
                temperature=self.options.temperature,
                samples=samples,
                generator=generator,
                batch_size=samples * len(batch.lengths),
            )

    def scores(self, reward: Reward, answers: Answers, name: str = "reward") -> Tensor:
        """A reward's scores (B,), before penalties. Raises UserError where one is no finite number (or NaN, where that
        is allowed)."""
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
        if not self.options.lora_rank:
            raise UserError(NO_REFERENCE)
        with lora_disabled(self.policy):
            yield self.policy

    @torch.no_grad()
    def scored(self, sequences: Sequences, parts: Sequence[Tensor], first: bool) -> Scored:
        """Log-probabilities by policy and reference, in the ``parts`` (rows each) that the first epoch's updates are
        made of; checked on the first rollout.

        The log-probabilities kept from sampling came through a cache: their rounding must not pass for a change. An
        update that leaves answers out (GRPO's without an advantage) has other batches, which round a little otherwise.
        """
        device, temperature = sequences.device, self.options.temperature
        logps, reference, entropy = (torch.zeros(sequences.mask.shape, device=device) for _ in range(3))
        for rows in parts:
            part, places = sequences.packed(rows), sequences.places(rows)
            own, spread = logps_and_entropy(self.policy, part, temperature)
            logps[places], entropy[places] = sequences.matrix(part, own), sequences.matrix(part, spread)
            with self.as_reference() as network:
                reference[places] = sequences.matrix(part, completion_logps(network, part, temperature))
        if first:
            self.check_equal("policy and reference differ", logps, reference, sequences.mask)
        return Scored(logps, reference, entropy)

    def check_equal(self, what: str, one: Tensor, two: Tensor, mask: Tensor) -> None:
        """Raises UserError where (B, C) log-probabilities that must be one are not: dropout, another model."""
        kind, dtype = mask.device.type, next(self.policy.parameters()).dtype
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
        gap = float(masked_mean((one - two).abs(), mask))
        if not gap < START_TOLERANCES[dtype]:
            raise UserError(f"the start: {what}: {gap:.3g} nats a token before any update, and should not at all")
