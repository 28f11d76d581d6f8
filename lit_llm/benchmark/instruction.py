"""Instruction tuning on conversations of unlike lengths: packed here, padded and packed in TRL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
from torch.utils.data import DataLoader

from lit_llm.benchmark import preference_trl as trl
from lit_llm.benchmark.command import say
from lit_llm.benchmark.conditions import conditions
from lit_llm.benchmark.contestants import Shape
from lit_llm.benchmark.conversations import Source, packed
from lit_llm.benchmark.preference_here import Epoch, parts, policy
from lit_llm.benchmark.race import Contestant, race
from lit_llm.benchmark.record import Goal, Record
from lit_llm.errors import UserError
from lit_llm.stages.instruction_tuning import InstructionTuning

PRECISIONS = ("bf16-mixed", "32-true")
PACKINGS = ("padded", "bfd", "wrapped")
"""TRL's: a conversation a row; packed whole, told apart by their positions; cut where a row ends and not told apart."""


@dataclass(frozen=True)
class Settings:
    """Times epochs of instruction tuning here and in TRL, in useful tokens (of conversations, not padding) a second."""

    path: Annotated[Path | None, "a file of conversations; none: lengths are drawn"] = None
    conversations: Annotated[int, "of an epoch, which is one call"] = 64
    batch: Annotated[int, "conversations a step where they are padded; packed rows hold as many tokens"] = 16
    max_length: Annotated[int, "tokens of a packed row, and of the longest conversation"] = 512
    hidden_size: Annotated[int, "width"] = 384
    layers: Annotated[int, "layers"] = 6
    heads: Annotated[int, "attention heads"] = 6
    vocab_size: Annotated[int, "rows of the embedding"] = 4096
    precision: Annotated[tuple[str, ...], f"of {', '.join(PRECISIONS)}"] = PRECISIONS
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    seconds: Annotated[float, "of each contestant in each round"] = 1.0
    threads: Annotated[int | None, "torch's threads; none: its own choice"] = None
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        for value in self.precision:
            if value not in PRECISIONS:
                raise UserError(f"precision={value}: must be of {', '.join(PRECISIONS)}")
        for name in ("conversations", "batch", "max_length", "layers", "heads", "rounds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0")

    @property
    def source(self) -> Source:
        return Source(self.path, self.conversations, self.vocab_size, self.max_length)


@dataclass(frozen=True)
class Work:
    """What every contestant does in one call: an epoch over the conversations."""

    shape: Shape
    source: Source
    precision: str

    @property
    def rows(self) -> int:
        """Packed rows that hold about the tokens of a padded batch."""
        tokens = sum(len(ids) for ids, _ in self.source.conversations())
        return max(1, round(self.shape.batch * tokens / self.source.count / self.shape.length))


def run(settings: Settings) -> Record:
    sizes = (settings.hidden_size, settings.layers, settings.heads, settings.vocab_size, settings.max_length)
    work = Work(Shape(*sizes, settings.batch, qk_norm=False), settings.source, "")
    described = [
        f"{settings.hidden_size} wide, {settings.layers} layers, vocabulary {settings.vocab_size}; steps of "
        f"{settings.batch} conversations, or of {work.rows} packed rows of {settings.max_length} tokens",
        settings.source.described(),
        *conditions(settings.threads, "cpu", ("trl", "transformers", "accelerate")),
    ]
    say("\n".join(described))
    contestants = list(_contestants(settings, work))
    results = race(contestants, settings.rounds, settings.seconds, settings.threads, say)
    goals = list(_goals([contestant.name for contestant in contestants]))
    return Record("instruction", "useful tokens", described, results, goals, settings=asdict(settings))


def _contestants(settings: Settings, work: Work) -> Iterator[Contestant]:
    for precision in settings.precision:
        each = replace(work, precision=precision)
        yield Contestant(f"here packed {precision}", partial(here, each))
        if find_spec("trl") is not None:
            for packing in PACKINGS:
                yield Contestant(f"trl {packing} {precision}", partial(theirs, each, packing), tuned=False)


def _goals(names: list[str]) -> Iterator[Goal]:
    ours = next(name for name in names if name.startswith("here "))
    padded = tuple(name for name in names if name.startswith("trl padded"))
    yield Goal("instruction tuning against padded batches", ours, padded, 3.0)
    whole = tuple(name for name in names if name.startswith("trl bfd"))
    yield Goal("instruction tuning against packed whole conversations", ours, whole, 1.0)
    cut = tuple(name for name in names if name.startswith("trl wrapped"))
    yield Goal("instruction tuning against packed cut ones, which see each other", ours, cut, 1.0)


def here(work: Work) -> Epoch:
    conversations = work.source.conversations()
    rows = packed(conversations, work.shape.length)
    stage = InstructionTuning(model=policy(work.shape.config()), **parts())
    loader: Any = DataLoader(rows, work.rows, shuffle=True, collate_fn=rows.collate)
    epoch = Epoch(stage, lambda: loader, sum(len(ids) for ids, _ in conversations), work.precision)
    total, count = 0.0, 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=work.precision == "bf16-mixed"):
        for row in range(len(rows)):
            loss, tokens, _ = stage.loss(rows.collate([rows[row]]))
            total, count = total + float(loss), count + int(tokens)
    epoch.first = {"loss": total / count, "trained": count}
    return epoch


def theirs(work: Work, packing: str) -> trl.Training:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    trl.quiet()
    conversations = work.source.conversations()
    rows = [{"input_ids": ids, "completion_mask": trained} for ids, trained in conversations]
    batch = work.shape.batch if packing == "padded" else work.rows
    more = {} if packing == "padded" else {"packing": True, "packing_strategy": packing}
    trainer = SFTTrainer(
        model=trl.causal(policy(work.shape.config())),
        args=SFTConfig(
            **trl.options(batch, work.precision), max_length=work.shape.length, completion_only_loss=True, **more
        ),
        processing_class=trl.words(work.shape.vocab_size),
        train_dataset=Dataset.from_list(rows),
    )
    return trl.Training(trainer, sum(len(ids) for ids, _ in conversations), _loss(trainer))


def _loss(trainer: Any) -> dict[str, float]:
    """Mean loss of a trained token over the epoch's batches, at the start."""
    model = trainer.accelerator.prepare(trainer.model)
    total, count = 0.0, 0
    for batch in trainer.get_train_dataloader():
        tokens = int((batch["labels"][:, 1:] != -100).sum())
        with torch.no_grad(), trainer.compute_loss_context_manager():
            total, count = total + tokens * float(trainer.compute_loss(model, batch)), count + tokens
    return {"loss": total / count, "trained": count}
