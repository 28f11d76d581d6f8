"""DPO, reward modelling and GRPO with TRL's trainers and collators. Used only where TRL is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.preference.comparisons import pairs
from benchmarks.preference.here import Work
from benchmarks.tuning.epochs import policy
from benchmarks.tuning.trl import Training, causal, loaded, options, quiet, words
from lit_llm.backbone.models import ScoreModel


def dpo(work: Work, cached: bool, by_length: bool = False) -> Training:
    """``cached``: with precompute_ref_log_probs. ``by_length``: rows of like lengths are brought together."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    quiet()
    reference = causal(policy(work.config, seed=1))
    trainer = DPOTrainer(
        model=causal(policy(work.config)),
        ref_model=reference,
        args=DPOConfig(**_ranking(work, by_length), max_length=None, precompute_ref_log_probs=cached),
        processing_class=words(work.config.vocab_size),
        train_dataset=Dataset.from_list([{"prompt": "w5", "chosen": "w6", "rejected": "w7"}] * 2),
    )
    names, ranked = ("prompt_ids", "chosen_ids", "rejected_ids"), work.source.rows()
    rows: list[dict[str, Any]] = [dict(zip(names, pair, strict=True)) for pair in pairs(ranked)]
    if cached:
        rows = [row | _reference_logps(trainer, reference, row) for row in rows]
    trainer.train_dataset = Dataset.from_list([row | {"length": _length(row)} for row in rows])
    first = _first_step(trainer, rows[: len(pairs(ranked, work.batch))], {"margin": "rewards/margins"})
    return Training(trainer, work.source.count, first)


def reward(work: Work, by_length: bool = False) -> Training:
    """``by_length``: as in ``dpo``."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    quiet()
    scored = ScoreModel.from_language_model(policy(work.config))
    torch.nn.init.normal_(scored.score.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    ranked = work.source.rows()
    rows = [
        {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected} for prompt, chosen, rejected in pairs(ranked)
    ]
    trainer = RewardTrainer(
        model=loaded(scored, AutoModelForSequenceClassification),
        args=RewardConfig(**_ranking(work, by_length), max_length=None),
        processing_class=words(work.config.vocab_size),
        train_dataset=Dataset.from_list([row | {"length": _length(row)} for row in rows]),
    )
    first = _first_step(trainer, rows[: len(pairs(ranked, work.batch))], {"margin": "margin"})
    return Training(trainer, work.source.count, first)


def grpo(work: Work) -> Training:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    quiet()
    rows = work.source.rows()
    prompts = [" ".join(f"w{token}" for token in rows[n].prompt.tolist()) for n in range(len(rows))]
    half = work.config.vocab_size // 2

    def low(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(token < half for token in ids) / len(ids) for ids in completion_ids]

    settings = options(work.batch * work.samples, work.precision, device=work.device)
    trainer = GRPOTrainer(
        model=causal(policy(work.config)),
        reward_funcs=low,
        args=GRPOConfig(**settings, num_generations=work.samples, max_completion_length=work.max_new_tokens),
        processing_class=words(work.config.vocab_size),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
    )
    return Training(trainer, work.samples * len(prompts), {})


def _ranking(work: Work, by_length: bool) -> dict[str, Any]:
    """Arguments of a trainer of pairs. Bringing rows of like lengths together spares it padding, and needs a column
    that is otherwise taken from the data beforehand."""
    grouped = {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False} if by_length else {}
    return {**options(work.pairs_a_step, work.precision, device=work.device), **grouped}


def _length(row: dict[str, Any]) -> int:
    """Of a pair's longer row."""
    return len(row.get("prompt_ids", ())) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _reference_logps(trainer: Any, reference: Any, row: dict[str, Any]) -> dict[str, float]:
    chosen, rejected = trainer.compute_ref_log_probs(reference, trainer.data_collator([row]))
    return {"ref_chosen_logps": float(chosen), "ref_rejected_logps": float(rejected)}


def _first_step(trainer: Any, rows: list[dict[str, Any]], measures: dict[str, str]) -> dict[str, float]:
    """Loss, margin and gradient norm of the first pairs at the start."""
    model = trainer.accelerator.prepare(trainer.model)
    model.train()
    with trainer.compute_loss_context_manager():
        loss: Tensor = trainer.compute_loss(model, trainer.data_collator(rows))
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters() if p.grad is not None])
    trainer.model.zero_grad()
    kept: Callable[[str], Any] = trainer._metrics["train"].get
    found = {name: kept(key) for name, key in measures.items()}
    said = {name: float(values[-1]) for name, values in found.items() if values}
    return {"loss": float(loss), **said, "gradient": float(norm)}
