"""What to rank next: the prompts on whose answers a reward model, or an ensemble of them, is least sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from sqlalchemy import select

from lit_llm.errors import UserError
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.projects import set_priorities
from lit_llm.feedback.store.tables import CandidateRow, PromptRow, TaskCandidateRow, TaskRow
from lit_llm.records import Message
from lit_llm.rewards.learned import LearnedReward
from lit_llm.runtime.progress_bars import Bar

Reward = Callable[[Sequence[Sequence[Message]], Sequence[str]], torch.Tensor]


def uncertainty(scores: ArrayLike) -> float:
    """Of one prompt's answers: scores (M models, K answers), in units of log-odds.

    Mean over pairs of p (1 - p), where p is the models' mean sigmoid(s_i - s_j): the variance of the outcome. It is
    the mean of each model's own p (1 - p) plus the variance of p between the models, so a quarrel counts, once.
    """
    s = np.asarray(scores, dtype=np.float64)
    pairs = list(combinations(range(s.shape[1]), 2))
    p = np.stack([1 / (1 + np.exp(-(s[:, i] - s[:, j]))) for i, j in pairs], axis=1)  # (M, pairs)
    mean = p.mean(axis=0)
    return float((mean * (1 - mean)).mean())


def prioritize(store: Store, folders: Sequence[Path]) -> int:
    """Sets the priority of every normal item of a project to its uncertainty; returns how many there are.

    Raises UserError for a folder without a reward model, or an item that it cannot read.
    """
    if not folders:
        raise UserError("reward= is missing; give a reward model's folder, or several with commas between them")
    tasks = _tasks(store)
    rewards = [_in_log_odds(LearnedReward(folder=str(folder))) for folder in folders]
    found = {}
    for task, (messages, answers) in Bar(tasks.items(), desc="uncertainty"):
        found[task] = uncertainty([reward([messages] * len(answers), answers).tolist() for reward in rewards])
    set_priorities(store, found)
    return len(found)


def _in_log_odds(reward: LearnedReward) -> Reward:
    """Without the normalisation: differences of raw scores are log-odds, those of normalised ones are not."""
    return lambda prompts, answers: reward(prompts, answers) * reward.model.reward_std


def _tasks(store: Store) -> dict[int, tuple[list[Message], list[str]]]:
    found: dict[int, tuple[list[Message], list[str]]] = {}
    with store.read() as session:
        answers = (
            select(TaskRow.id, PromptRow.messages, CandidateRow.text)
            .join(PromptRow, PromptRow.id == TaskRow.prompt_id)
            .join(TaskCandidateRow, TaskCandidateRow.task_id == TaskRow.id)
            .join(CandidateRow, CandidateRow.id == TaskCandidateRow.candidate_id)
            .where(TaskRow.kind == "normal")
            .order_by(TaskRow.id, TaskCandidateRow.place)
        )
        for task, messages, text in session.execute(answers):
            found.setdefault(task, ([Message(m["role"], m["content"]) for m in messages], []))[1].append(text)
    return found
