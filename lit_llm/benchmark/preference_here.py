"""DPO, reward modelling, GRPO and PPO as this project's runs do them: its stages in Lightning's loop."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.heads import LanguageModel
from lit_llm.benchmark.comparisons import Source
from lit_llm.optim.adamw import adamw
from lit_llm.optim.schedules import constant
from lit_llm.records import PromptBatch
from lit_llm.stages.base import Stage
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.on_policy import OnPolicy
from lit_llm.stages.ppo import PPO
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.reward_modeling import RewardModeling

LEARNING_RATE = 1e-12
"""So small that the timed steps leave the models what they are: every call then does the same."""


@dataclass(frozen=True)
class Work:
    """What every contestant does in one call: an epoch over the comparisons, or a rollout for each batch of prompts."""

    config: BackboneConfig
    source: Source
    batch: int  # comparisons or prompts a step
    precision: str  # 32-true or bf16-mixed
    samples: int  # answers to a prompt of GRPO
    max_new_tokens: int


def policy(config: BackboneConfig, seed: int = 0) -> LanguageModel:
    """The same weights in every contestant's process."""
    torch.manual_seed(seed)
    return LanguageModel(config)


class Epoch:
    """One call is an epoch of a stage, from the loader to the last update."""

    def __init__(
        self, stage: Stage, batches: Callable[[], Any], units: float, precision: str, forget: bool = False
    ) -> None:
        warnings.filterwarnings("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        self.stage, self.batches, self.units = stage, batches, units
        self.precision, self.forget = precision, forget
        self.first: dict[str, float] = {}

    def __call__(self) -> None:
        if self.forget:  # what the reference says of the data: the first epoch of a run does not know it
            self.stage._known.clear()  # type: ignore[operator, union-attr]
        own = not self.stage.automatic_optimization
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(
            accelerator="cpu",
            precision=self.precision,  # type: ignore[arg-type]
            max_epochs=1,
            gradient_clip_val=None if own else 1.0,
            enable_model_summary=False,
            **quiet,  # type: ignore[arg-type]
        )
        trainer.fit(self.stage, self.batches())

    def numbers(self) -> dict[str, float]:
        return self.first


def dpo(work: Work, cached: bool) -> Epoch:
    """``cached``: as in every epoch but the first, or with stage.reference_cache."""
    stage = PreferenceOptimization(model=policy(work.config), **parts())
    assert stage.reference is not None
    stage.reference.load_state_dict(policy(work.config, seed=1).state_dict())  # so that margins are not 0
    stage._checked = True  # that the two are alike
    return _ranked(stage, work, forget=not cached)


def reward(work: Work) -> Epoch:
    torch.manual_seed(0)
    stage = RewardModeling(model=policy(work.config), normalize_batches=0, **parts())
    torch.nn.init.normal_(stage.model.score.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    return _ranked(stage, work)


def _ranked(stage: Stage, work: Work, forget: bool = False) -> Epoch:
    rows = work.source.rows()
    loader: Any = DataLoader(rows, work.batch, shuffle=True, collate_fn=rows.collate)  # type: ignore[arg-type]
    epoch = Epoch(stage, lambda: loader, len(rows), work.precision, forget)
    epoch.first = _first_step(stage, rows.collate([rows[n] for n in range(work.batch)]), work.precision)
    return epoch


def _first_step(stage: Any, batch: Any, precision: str) -> dict[str, float]:
    """Loss, margin and gradient norm of the first batch at the start."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        total, count, metrics = stage.loss(batch)
    (total / count).backward()
    gradients = [p.grad for p in stage.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    stage.zero_grad()
    margin = metrics["rewards/margins"] if "rewards/margins" in metrics else metrics["margin"]
    return {"loss": float(total / count), "margin": float(margin / metrics["pairs"]), "gradient": float(norm)}


def grpo(work: Work) -> Epoch:
    stage = GRPO(
        model=policy(work.config),
        reward=LowTokens(work.config.vocab_size),
        group_size=work.samples,
        max_new_tokens=work.max_new_tokens,
        end_ids=(1,),
        **parts(),
    )
    return _rollouts(stage, work, work.samples)


def ppo(work: Work) -> Epoch:
    stage = PPO(
        model=policy(work.config),
        reward=LowTokens(work.config.vocab_size),
        max_new_tokens=work.max_new_tokens,
        end_ids=(1,),
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
    return Epoch(stage, lambda: loader, samples * len(prompts), work.precision)


class LowTokens:
    """A programmatic reward of answers: the share of tokens in the lower half of the vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def score_tokens(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        inside = torch.arange(input_ids.shape[1]) < lengths[:, None]
        return ((input_ids < self.vocab_size // 2) & inside).sum(1) / lengths


def parts() -> dict[str, Any]:
    return {"optimizer": partial(adamw, lr=LEARNING_RATE, weight_decay=0.0), "schedule": constant}
