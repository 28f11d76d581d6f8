"""DPO, reward modelling, GRPO and PPO with this project's stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.preference.comparisons import Source, pairs
from benchmarks.tuning.epochs import Epoch, parts, policy
from lit_llm.backbone.config import BackboneConfig
from lit_llm.records import PromptBatch
from lit_llm.stages.base import Stage
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.on_policy import OnPolicy
from lit_llm.stages.options import GRPOOptions, PPOOptions, RewardModelingOptions
from lit_llm.stages.ppo import PPO
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.reward_modeling import RewardModeling


@dataclass(frozen=True)
class Work:
    """What every contestant does in one call: an epoch over the comparisons, or a rollout for each batch of prompts."""

    config: BackboneConfig
    source: Source
    batch: int  # comparisons or prompts a step
    precision: str  # 32-true or bf16-mixed
    samples: int  # answers to a prompt of GRPO
    max_new_tokens: int
    device: str = "cpu"

    @property
    def pairs_a_step(self) -> int:
        """Of TRL: as many as ``batch`` comparisons have on average, whatever a file ranks together."""
        return round(self.batch * len(pairs(self.source.rows())) / self.source.count)


def dpo(work: Work, cached: bool) -> Epoch:
    """``cached``: as in every epoch but the first, or with stage.reference_cache."""
    stage = PreferenceOptimization(model=policy(work.config), **parts())
    assert stage.reference is not None
    stage.reference.load_state_dict(policy(work.config, seed=1).state_dict())  # so that margins are not 0
    stage._checked = True  # that the two are alike
    return _ranked(stage, work, forget=not cached)


def reward(work: Work) -> Epoch:
    torch.manual_seed(0)
    stage = RewardModeling(RewardModelingOptions(normalize_batches=0), model=policy(work.config), **parts())
    torch.nn.init.normal_(stage.model.score.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    return _ranked(stage, work)


def _ranked(stage: Stage, work: Work, forget: bool = False) -> Epoch:
    rows = work.source.rows()
    loader: Any = DataLoader(rows, work.batch, shuffle=True, collate_fn=rows.collate)  # type: ignore[arg-type]
    first = _first_step(stage, rows.collate([rows[n] for n in range(work.batch)]), work)
    return Epoch(stage, lambda: loader, len(rows), work.precision, forget, first, work.device)


def _first_step(stage: Any, batch: Any, work: Work) -> dict[str, float]:
    """Loss, margin and gradient norm of the first batch at the start."""
    stage.to(work.device)
    batch = stage.transfer_batch_to_device(batch, torch.device(work.device), 0)
    with torch.autocast(torch.device(work.device).type, torch.bfloat16, enabled=work.precision == "bf16-mixed"):
        total, count, metrics = stage.loss(batch)
    (total / count).backward()
    gradients = [p.grad for p in stage.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    stage.zero_grad()
    margin = metrics["rewards/margins"] if "rewards/margins" in metrics else metrics["margin"]
    return {"loss": float(total / count), "margin": float(margin / metrics["pairs"]), "gradient": float(norm)}


def grpo(work: Work) -> Epoch:
    stage = GRPO(
        GRPOOptions(group_size=work.samples, max_new_tokens=work.max_new_tokens, end_ids=(1,)),
        model=policy(work.config),
        reward=LowTokens(work.config.vocab_size),
        **parts(),
    )
    return _rollouts(stage, work, work.samples)


def ppo(work: Work) -> Epoch:
    stage = PPO(
        PPOOptions(max_new_tokens=work.max_new_tokens, end_ids=(1,)),
        model=policy(work.config),
        reward=LowTokens(work.config.vocab_size),
        **parts(),
    )
    return _rollouts(stage, work, 1)


def _rollouts(stage: OnPolicy, work: Work, samples: int) -> Epoch:
    prompts = [prompt for prompt, _, _ in map(work.source.rows().__getitem__, range(work.source.count))]
    batches = []
    for first in range(0, len(prompts), work.batch):
        rows = [torch.as_tensor(prompt.astype("int64")) for prompt in prompts[first : first + work.batch]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        batches.append(PromptBatch(ids, torch.tensor([len(row) for row in rows]), torch.arange(len(rows))))
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    return Epoch(stage, lambda: loader, samples * len(prompts), work.precision, device=work.device)


class LowTokens:
    """A programmatic reward of answers: the share of tokens in the lower half of the vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def score_tokens(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        inside = torch.arange(input_ids.shape[1], device=lengths.device) < lengths[:, None]
        return ((input_ids < self.vocab_size // 2) & inside).sum(1) / lengths
