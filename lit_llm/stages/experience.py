"""A rollout made ready for PPO and GRPO: its completions as dense (B, C) matrices, scored again by any network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lit_llm.backbone.branches import Branches, branches_of
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.objectives.language import token_entropy, token_logps
from lit_llm.objectives.policy import Total, alone, gae, kl_k1, token_rewards, whiten
from lit_llm.records import Rollout


class Sequences(NamedTuple):
    """Prompts with their completions, right-padded; C is the longest completion of the rollout."""

    input_ids: Tensor  # (B, T) int64
    prompt_lengths: Tensor  # (B,) int64
    lengths: Tensor  # (B,) int64: prompt and completion, end token counted
    mask: Tensor  # (B, C) bool: completion token c exists

    @classmethod
    def of(cls, rollout: Rollout) -> Sequences:
        sizes = rollout.lengths - rollout.prompt_lengths
        mask = torch.arange(int(sizes.max()), device=sizes.device) < sizes[:, None]
        return cls(rollout.input_ids, rollout.prompt_lengths, rollout.lengths, mask)

    def select(self, rows: Tensor) -> Sequences:
        """These rows, without the columns that only longer ones need."""
        lengths = self.lengths[rows]
        return Sequences(
            self.input_ids[rows, : int(lengths.max())], self.prompt_lengths[rows], lengths, self.mask[rows]
        )

    def branches(self) -> Branches:
        """As rows without padding between them, in which the answers to one prompt share it."""
        return branches_of(self.input_ids, self.prompt_lengths, self.lengths)

    def places(self) -> Tensor:
        """(B, C): the position that predicts completion token c, the last such one where there is none."""
        steps = torch.arange(self.mask.shape[1], device=self.lengths.device)
        return torch.minimum(self.prompt_lengths[:, None] - 1 + steps, self.lengths[:, None] - 2)

    def dense(self, aligned: Tensor) -> Tensor:
        """(B, C) of values (B, T-1) aligned to the predicting position, as in ``Rollout.logps``; 0 outside."""
        return torch.where(self.mask, aligned.gather(1, self.places()), 0)


def completion_logps(
    model: LanguageModel, sequences: Sequences, temperature: float, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of every completion token at this temperature, and entropy there: (B, C), 0 outside the mask."""
    rows, width = sequences.branches(), sequences.mask.shape[1]
    hidden = model.before_completions(rows)
    logps = rows.matrix(token_logps(hidden, model.output_weight, rows.targets, temperature), width)
    if not with_entropy:
        return logps, torch.zeros_like(logps)
    return logps, rows.matrix(token_entropy(hidden, model.output_weight, temperature), width)


def completion_values(model: ScoreModel, sequences: Sequences) -> tuple[Tensor, Tensor]:
    """The value of the state before each completion token (B, C), and of the state after the last one (B,).

    In the unit of the normalised score.
    """
    rows = sequences.branches()
    read = model.values(rows.input_ids, rows.positions, rows.segments, branches=rows.branches)
    values = ((read - model.reward_mean) / model.reward_std).flatten()
    return rows.matrix(values[rows.before], sequences.mask.shape[1]), values[rows.last][rows.completion]


class Experience(NamedTuple):
    """What one rollout teaches; everything is fixed while the networks are updated. (B, C) unless said otherwise."""

    sequences: Sequences
    logps: Tensor  # under the policy that sampled, scored as in training
    values: Tensor
    advantages: Tensor  # whitened
    returns: Tensor

    @classmethod
    def of(
        cls,
        sequences: Sequences,
        logps: Tensor,
        reference: Tensor,
        values: Tensor,
        scores: Tensor,
        kl_coef: float,
        gamma: float,
        lam: float,
        after: Tensor | None = None,
        total: Total = alone,
    ) -> Experience:
        """``scores`` (B,) fall on the last token; every token pays ``kl_coef`` times its k1 estimate of the KL.

        ``after`` (B,) is the value of what follows the last token; None: 0, the answer was over. ``total`` adds up over
        the processes whose rollouts are whitened as one.
        """
        rewards = token_rewards(scores, kl_k1(logps, reference), sequences.mask, kl_coef)
        advantages, returns = gae(rewards, values, sequences.mask, gamma, lam, after)
        return cls(sequences, logps, values, whiten(advantages, sequences.mask, total), returns)

    def select(self, rows: Tensor) -> Experience:
        return Experience(self.sequences.select(rows), *(matrix[rows] for matrix in self[1:]))
