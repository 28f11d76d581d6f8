"""TRL's trainers as its users get them, with their collators and loop. Used only where TRL is installed."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.race import wait_for
from benchmarks.tuning.epochs import LEARNING_RATE
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel, ScoreModel


class Training:
    """One call is ``trainer.train()``: an epoch.

    ``first``: numbers that are to be compared with those here.
    """

    def __init__(self, trainer: Any, units: float, first: dict[str, float]) -> None:
        from transformers import PrinterCallback, TrainerCallback

        class Began(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_train_begin(began, *_: Any, **__: Any) -> None:  # noqa: N805
                self.starts.append(time.perf_counter() - self.called)

        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Began())
        self.trainer, self.units, self.first = trainer, units, first
        self.called, self.starts = 0.0, list[float]()
        self.device = torch.device(trainer.args.device)

    def __call__(self) -> None:
        self.called = time.perf_counter()
        self.trainer.train()

    def wait(self) -> None:
        wait_for(self.device)

    def numbers(self) -> dict[str, float]:
        return {**self.first, "start_seconds": median(self.starts), "call_units": self.units}


def options(batch: int, precision: str, accumulated: int = 1, device: str = "cpu") -> dict[str, Any]:
    """Arguments of every trainer, for steps of ``accumulated`` times ``batch`` rows: what is on by default and slows a
    small model down is off."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulated,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "num_train_epochs": 1,
        "bf16": precision == "bf16-mixed",
        "gradient_checkpointing": False,
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device != "cpu",
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


def causal(model: LanguageModel) -> Any:
    from transformers import AutoModelForCausalLM

    return loaded(model, AutoModelForCausalLM)


def loaded(model: LanguageModel | ScoreModel, kind: Any) -> Any:
    """The same weights in transformers' class."""
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), model)
        theirs = kind.from_pretrained(folder, dtype=torch.float32)
    theirs.config.pad_token_id, theirs.config.eos_token_id = 0, 1
    return theirs
