"""A reward made of several: their weighted sum, each part logged by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_llm.records import Message
from lit_llm.rewards.base import Reward, as_reward
from lit_llm.rewards.folders import folders_of
from lit_llm.rewards.options import WeightedSumOptions


class WeightedSum(nn.Module, Reward):
    """``sum of weight * reward`` over the parts. A part that is NaN for an answer makes the sum NaN.

    ``latest`` holds each part's own scores (B,), before its weight, of the answers scored last.

    Options: ``WeightedSumOptions``.
    """

    Options: ClassVar[type[WeightedSumOptions]] = WeightedSumOptions

    def __init__(self, options: WeightedSumOptions | None = None, **values: Any) -> None:
        super().__init__()
        options = WeightedSumOptions.of(options, values)
        parts = options.parts
        self.weights = {name: options.weight(name) for name in parts}
        self.parts = {name: as_reward(part["reward"], f"reward.parts.{name}") for name, part in parts.items()}
        self.networks = nn.ModuleDict({n: part for n, part in self.parts.items() if isinstance(part, nn.Module)})
        self.row_fields = any(part.row_fields for part in self.parts.values())
        self.folders = folders_of(*self.parts.values())  # the reward models' among the parts
        self.latest: dict[str, Tensor] = {}

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The sum (B,) of the parts' scores (B,) each; keeps them as ``latest``."""
        self.latest = {name: each.detach() for name, each in scores.items()}
        return torch.stack([self.weights[name] * each.float() for name, each in scores.items()]).sum(0)

    def forward(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[str],
        rows: Sequence[Mapping[str, str]] | None = None,
    ) -> Tensor:
        """Scores (B,) of texts."""
        scores = {}
        for name, part in self.parts.items():
            found = part.score_texts(prompts, completions, lambda: rows or [{}] * len(completions))
            scores[name] = torch.as_tensor(found, dtype=torch.float32)
        devices = {each.device for each in scores.values()}
        device = next((each for each in devices if each.type != "cpu"), torch.device("cpu"))
        return self.combine({name: each.to(device) for name, each in scores.items()})
