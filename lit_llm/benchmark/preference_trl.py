"""The same works as TRL's users get them: its trainers, collators and loop. Imported only where TRL is installed."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_llm.backbone.heads import LanguageModel, ScoreModel
from lit_llm.backbone.huggingface import save_model
from lit_llm.benchmark.comparisons import pairs
from lit_llm.benchmark.preference_here import LEARNING_RATE, Work, policy


class Training:
    """One call is ``trainer.train()``: an epoch."""

    def __init__(self, trainer: Any, units: float, first: dict[str, float]) -> None:
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        self.trainer, self.units, self.first = trainer, units, first

    def __call__(self) -> None:
        self.trainer.train()

    def numbers(self) -> dict[str, float]:
        return self.first


def dpo(work: Work, cached: bool) -> Training:
    """``cached``: with precompute_ref_log_probs."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    quiet()
    reference = causal(policy(work.config, seed=1))
    trainer = DPOTrainer(
        model=causal(policy(work.config)),
        ref_model=reference,
        args=DPOConfig(
            **options(_pairs_a_step(work), work.precision), max_length=None, precompute_ref_log_probs=cached
        ),
        processing_class=words(work.config.vocab_size),
        train_dataset=Dataset.from_list([{"prompt": "w5", "chosen": "w6", "rejected": "w7"}] * 2),
    )
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows: list[dict[str, Any]] = [dict(zip(names, pair, strict=True)) for pair in pairs(work.source.rows())]
    if cached:
        rows = [row | _reference_logps(trainer, reference, row) for row in rows]
    trainer.train_dataset = Dataset.from_list(rows)
    measures = {"margin": "rewards/margins"}
    return Training(trainer, work.source.count, _first_step(trainer, rows[: _pairs_a_step(work)], measures))


def reward(work: Work) -> Training:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    quiet()
    scored = ScoreModel.from_language_model(policy(work.config))
    torch.nn.init.normal_(scored.score.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    rows = [
        {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
        for prompt, chosen, rejected in pairs(work.source.rows())
    ]
    trainer = RewardTrainer(
        model=_loaded(scored, AutoModelForSequenceClassification),
        args=RewardConfig(**options(_pairs_a_step(work), work.precision), max_length=None),
        processing_class=words(work.config.vocab_size),
        train_dataset=Dataset.from_list(rows),
    )
    return Training(trainer, work.source.count, _first_step(trainer, rows[: _pairs_a_step(work)], {"margin": "margin"}))


def grpo(work: Work) -> Training:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    quiet()
    rows = work.source.rows()
    prompts = [" ".join(f"w{token}" for token in rows[n].prompt.tolist()) for n in range(len(rows))]
    half = work.config.vocab_size // 2

    def low(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(token < half for token in ids) / len(ids) for ids in completion_ids]

    settings = options(work.batch * work.samples, work.precision)
    trainer = GRPOTrainer(
        model=causal(policy(work.config)),
        reward_funcs=low,
        args=GRPOConfig(**settings, num_generations=work.samples, max_completion_length=work.max_new_tokens),
        processing_class=words(work.config.vocab_size),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
    )
    return Training(trainer, work.samples * len(prompts), {})


def options(batch: int, precision: str) -> dict[str, Any]:
    """Arguments of every trainer: what is on by default and slows a small model down is off."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": batch,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "num_train_epochs": 1,
        "bf16": precision == "bf16-mixed",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def words(vocab_size: int) -> Any:
    """A tokenizer whose token n is the word "wn": texts and ids say the same, and cost next to nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    engine = Tokenizer(models.WordLevel({f"w{n}": n for n in range(vocab_size)}, unk_token="w2"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made: Any = PreTrainedTokenizerFast
    return made(tokenizer_object=engine, pad_token="w0", eos_token="w1", unk_token="w2")


def quiet() -> None:
    import datasets
    from transformers import logging as theirs

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    theirs.set_verbosity_error()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()


def _pairs_a_step(work: Work) -> int:
    return work.batch * work.source.completions * (work.source.completions - 1) // 2


def causal(model: LanguageModel) -> Any:
    from transformers import AutoModelForCausalLM

    return _loaded(model, AutoModelForCausalLM)


def _loaded(model: LanguageModel | ScoreModel, kind: Any) -> Any:
    """The same weights in transformers' class."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), model)
        theirs = kind.from_pretrained(folder, dtype=torch.float32)
    theirs.config.pad_token_id, theirs.config.eos_token_id = 0, 1
    return theirs


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
