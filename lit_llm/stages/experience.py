"""A rollout made ready for PPO and GRPO: its answers packed for any network, their values as dense (B, C) matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lit_llm.backbone.completions import pack, token_rows
from lit_llm.objectives.policy import Total, alone, gae, kl_k1, token_rewards, whiten
from lit_llm.records import PackedCompletions, Rollout
from lit_llm.runtime.host_copies import sent


class Sequences:
    """The B answers of a rollout; C is the longest of them.

    They are copied to the host once. A minibatch's are packed there once, however often they are read.
    """

    def __init__(self, rollout: Rollout) -> None:
        self.rows = token_rows(rollout.input_ids, rollout.prompt_lengths, rollout.lengths)
        self.device = rollout.lengths.device
        sizes = torch.tensor([len(answer) for _, answer in self.rows])
        self.mask = sent(torch.arange(int(sizes.max())) < sizes[:, None], self.device)  # (B, C): token c exists
        self._packed: dict[tuple[int, ...], PackedCompletions] = {}
        self._places: dict[tuple[int, ...], Tensor] = {}

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return sum(len(prompt) + len(answer) for prompt, answer in self.rows)

    def packed(self, rows: Tensor) -> PackedCompletions:
        """The answers ``rows`` (b,), which are on the CPU."""
        numbers = tuple(rows.tolist())
        if numbers not in self._packed:
            some = pack([self.rows[number] for number in numbers], self.device.type)
            self._packed[numbers] = some.to(self.device)
        return self._packed[numbers]

    def places(self, rows: Tensor) -> Tensor:
        """``rows`` (b,), which are on the CPU, on the device: they are sent once, and nobody waits for it."""
        numbers = tuple(rows.tolist())
        if numbers not in self._places:
            self._places[numbers] = sent(rows, self.device)
        return self._places[numbers]

    def matrix(self, completions: PackedCompletions, values: Tensor) -> Tensor:
        """Values (M,) of some packed answers' tokens as rows (b, C), 0 outside."""
        return completions.matrix(values, self.mask.shape[1])

    def sampled_logps(self, rollout: Rollout) -> Tensor:
        """(B, C): ``Rollout.logps``, which stand where a token is foreseen; 0 outside."""
        steps = torch.arange(self.mask.shape[1], device=self.device)
        places = torch.minimum(rollout.prompt_lengths[:, None] - 1 + steps, rollout.lengths[:, None] - 2)
        return torch.where(self.mask, rollout.logps.gather(1, places), 0)


class Experience(NamedTuple):
    """What one rollout teaches; everything is fixed while the networks are updated. All (B, C)."""

    mask: Tensor  # bool
    logps: Tensor  # under the policy that sampled, scored as in training
    values: Tensor
    advantages: Tensor  # whitened
    returns: Tensor

    @classmethod
    def of(
        cls,
        mask: Tensor,
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
        rewards = token_rewards(scores, kl_k1(logps, reference), mask, kl_coef)
        advantages, returns = gae(rewards, values, mask, gamma, lam, after)
        return cls(mask, logps, values, whiten(advantages, mask, total), returns)

    def select(self, rows: Tensor) -> Experience:
        """The rows (b,), which are on the device."""
        return Experience(*(matrix[rows] for matrix in self))
