"""A tiny vocabulary with a learnable preference, for the tests of the stages that learn from rankings and rewards."""

from __future__ import annotations

import dataclasses
from functools import partial

import lightning as L
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.data.ranking_rows import ranking_batch
from lit_llm.optim.adamw import adamw
from lit_llm.optim.schedules import constant
from lit_llm.records import PackedCompletions, PromptBatch, RankingBatch

VOCABULARY, END, LIKED = 24, 1, 5  # the rule: the more tokens LIKED, the better


def tiny_model(seed: int = 0, **overrides) -> LanguageModel:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "intermediate_size": 64}
    return LanguageModel(from_depth(VOCABULARY, depth=2, max_positions=64, **{**shape, **overrides}))


def rankings(prompts: int, k: int = 3, seed: int = 0, tokens: int = 6) -> RankingBatch:
    """Random prompts with ``k`` random answers each, ranked by the number of tokens LIKED (ties kept)."""
    g = torch.Generator().manual_seed(seed)
    rows, groups, ranks = [], [], []
    for group in range(prompts):
        prompt = torch.randint(6, VOCABULARY, (int(torch.randint(2, 6, (), generator=g)),), generator=g)
        likes: list[int] = []
        while len(likes) < k:
            size = int(torch.randint(2, tokens + 1, (), generator=g))
            answer = torch.randint(6, VOCABULARY, (size,), generator=g)
            answer[torch.rand(size, generator=g) < 0.4] = LIKED
            answer = torch.cat([answer, torch.tensor([END])])
            if any(torch.equal(answer, torch.from_numpy(other)) for _, other in rows[len(rows) - len(likes) :]):
                continue  # no answer twice
            likes.append(int((answer == LIKED).sum()))
            rows.append((prompt.numpy(), answer.numpy()))
            groups.append(group)
        ranks += [1 + sum(other > mine for other in likes) for mine in likes]
    return ranking_batch(rows, groups, ranks, [1.0] * prompts)


def remade(batch: RankingBatch, **changes) -> RankingBatch:
    """The batch as collate would make it with some of its parts changed."""
    names = ("groups", "ranks", "weights", "margins", "annotators")
    return ranking_batch(**{"rows": batch.completions.rows} | {name: getattr(batch, name) for name in names} | changes)


def padded(completions: PackedCompletions) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded rows (N, T), their lengths and those of their prompts (N,): the plain way to hold completions."""
    rows = [torch.cat([torch.from_numpy(part) for part in row]) for row in completions.rows]
    lengths = torch.tensor([len(row) for row in rows])
    return (
        pad_sequence(rows, batch_first=True, padding_value=END),
        lengths,
        torch.tensor([len(prompt) for prompt, _ in completions.rows]),
    )


def tokens_once(batch: RankingBatch) -> int:
    """Tokens of a batch with each prompt and each completion counted once."""
    prompts = dict(zip(batch.groups.tolist(), (len(prompt) for prompt, _ in batch.completions.rows), strict=True))
    return sum(prompts.values()) + int(batch.completions.sizes.sum())


def prompt_batch(prompts: int, seed: int = 0) -> PromptBatch:
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 6, (prompts,), generator=g)
    ids = torch.randint(6, VOCABULARY, (prompts, 5), generator=g)
    ids[torch.arange(5) >= lengths[:, None]] = END
    return PromptBatch(ids, lengths, torch.arange(prompts))


def loader(batches: list) -> DataLoader:
    return DataLoader(batches, batch_size=None, shuffle=False)


def parts(lr: float = 3e-3) -> dict:
    """The optimizer and schedule of a stage."""
    return {"optimizer": partial(adamw, lr=lr, weight_decay=0.0), "schedule": constant}


def made(kind, **given):
    """A stage of this class from its options and its live objects, each by its name."""
    fields = {field.name for field in dataclasses.fields(kind.Options)}
    options = kind.Options(**{name: value for name, value in given.items() if name in fields})
    return kind(options, **{name: value for name, value in given.items() if name not in fields})


def trainer(**overrides) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**{"accelerator": "cpu", "log_every_n_steps": 1, **quiet, **overrides})
