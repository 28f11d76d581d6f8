"""Instruction tuning on conversations of unlike lengths: packed here, padded and packed in TRL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any

import torch
from torch.utils.data import DataLoader

from benchmarks.agreement import demand
from benchmarks.command import say
from benchmarks.conditions import conditions, device_of
from benchmarks.contestants import Shape, parameters
from benchmarks.instruction.conversations import Source, packed
from benchmarks.race import Contestant, race
from benchmarks.record import Goal, Record
from benchmarks.started import without_start
from benchmarks.tuning import trl
from benchmarks.tuning.epochs import Epoch, parts, policy
from benchmarks.tuning.settings import StageSettings
from lit_llm.stages.instruction_tuning import InstructionTuning

PACKINGS = ("padded", "bfd", "bfd row by row", "wrapped")
"""TRL's: a conversation a row; packed whole, told apart by their positions, the step's rows as one sequence or
accumulated one by one (its mask is as large as the square of the sequence); cut where a row ends and not told apart."""

STEPS = 4
"""Of an epoch, at most, where nobody says how many."""

TOLERANCE = {"32-true": 1e-4, "bf16-mixed": 1e-2}
"""Of the mean loss of the epoch's trained tokens, which packing does not change."""


@dataclass(frozen=True)
class Settings(StageSettings):
    """Times epochs of instruction tuning here and in TRL, in useful tokens (of conversations, not padding) a second.
    What a call spends before its first step is taken off on both sides."""

    conversations: Annotated[int | None, "of an epoch, which is one call; none: 1 to 4 steps, as minutes= allows"] = (
        None
    )
    batch: Annotated[int, "conversations a step where they are padded; packed rows hold as many tokens"] = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        self.above_zero("conversations", "batch")

    def sized(self) -> tuple[Settings, list[str]]:
        """With a number of conversations, and the line that says where it came from."""
        if self.conversations is not None:
            return self, []
        machine, one = self.machine, replace(self, conversations=self.batch)
        tokens = sum(len(ids) for ids, _ in one.source.conversations())
        work = Work(one.shape(self.max_length, self.batch), one.source, "")
        everybody = len(list(_contestants(one, work))) / len(self.precision)
        operations = 6.0 * parameters(work.shape.config()) * tokens * everybody
        steps = machine.parts(dict.fromkeys(self.precision, operations), self.rounds, most=STEPS)
        return replace(self, conversations=steps * self.batch), [
            machine.said(f"{steps} steps of {self.batch} an epoch")
        ]

    @property
    def source(self) -> Source:
        assert self.conversations is not None, "the settings are not sized"
        return Source(self.path, self.conversations, self.vocab_size, self.max_length)


@dataclass(frozen=True)
class Work:
    """What every contestant does in one call: an epoch over the conversations."""

    shape: Shape
    source: Source
    precision: str
    device: str = "cpu"

    @property
    def rows(self) -> int:
        """Packed rows that hold about the tokens of a padded batch."""
        tokens = sum(len(ids) for ids, _ in self.source.conversations())
        return max(1, round(self.shape.batch * tokens / self.source.count / self.shape.length))


def run(settings: Settings) -> Record:
    settings, sized = settings.sized()
    place = device_of(settings.device)
    work = Work(settings.shape(settings.max_length, settings.batch), settings.source, "", place)
    described = [
        f"{settings.hidden_size} wide, {settings.layers} layers, vocabulary {settings.vocab_size}; steps of "
        f"{settings.batch} conversations, or of {work.rows} packed rows of {settings.max_length} tokens",
        settings.source.described(),
        *sized,
        *conditions(settings.threads, place, ("trl", "transformers", "accelerate")),
    ]
    say("\n".join(described))
    contestants = list(_contestants(settings, work))
    results = race(contestants, settings.rounds, settings.seconds, settings.threads, say, settings.fresh)
    for precision, tolerance in TOLERANCE.items():
        alike = [each for each in results if precision in each.name and "wrapped" not in each.name]
        demand(alike, ("loss", "trained"), tolerance)
    goals = list(_goals([contestant.name for contestant in contestants]))
    timed = list(without_start(results))
    title = f"instruction tuning, d {settings.hidden_size}, {settings.layers} layers"
    return Record("instruction", "useful tokens", described, timed, goals, settings=asdict(settings), title=title)


def _contestants(settings: Settings, work: Work) -> Iterator[Contestant]:
    for precision in settings.precision:
        each = replace(work, precision=precision)
        yield Contestant(f"here packed {precision}", partial(here, each))
        if find_spec("trl") is not None:
            for packing in PACKINGS:
                yield Contestant(f"trl {packing} {precision}", partial(theirs, each, packing), tuned=False)


def _goals(names: list[str]) -> Iterator[Goal]:
    ours = tuple(name for name in names if name.startswith("here "))
    padded = tuple(name for name in names if name.startswith("trl padded"))
    yield Goal("padded batches", ours, padded, 3.0)
    whole = tuple(name for name in names if name.startswith("trl bfd"))
    yield Goal("packed whole conversations", ours, whole, 1.0)
    cut = tuple(name for name in names if name.startswith("trl wrapped"))
    yield Goal("packed, cut conversations, which see each other", ours, cut, 1.0)


def here(work: Work) -> Epoch:
    conversations = work.source.conversations()
    rows = packed(conversations, work.shape.length)
    stage = InstructionTuning(model=policy(work.shape.config()), **parts())
    loader: Any = DataLoader(rows, work.rows, shuffle=True, collate_fn=rows.collate)
    total, count = 0.0, 0
    device = torch.device(work.device)
    stage.to(device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=work.precision == "bf16-mixed"):
        for row in range(len(rows)):
            loss, tokens, _ = stage.loss(stage.transfer_batch_to_device(rows.collate([rows[row]]), device, 0))
            total, count = total + float(loss), count + int(tokens)
    units, first = sum(len(ids) for ids, _ in conversations), {"loss": total / count, "trained": float(count)}
    return Epoch(stage, lambda: loader, units, work.precision, first=first, device=work.device)


def theirs(work: Work, packing: str) -> trl.Training:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    trl.quiet()
    conversations = work.source.conversations()
    rows = [{"input_ids": ids, "completion_mask": trained} for ids, trained in conversations]
    batch, accumulated = work.rows, 1
    more: dict[str, Any] = {"packing": True, "packing_strategy": packing.split()[0]}
    if packing == "padded":
        batch, more = work.shape.batch, {}
    elif packing == "bfd row by row":
        batch, accumulated = 1, work.rows
    trainer = SFTTrainer(
        model=trl.causal(policy(work.shape.config())),
        args=SFTConfig(
            **trl.options(batch, work.precision, accumulated, work.device),
            max_length=work.shape.length,
            completion_only_loss=True,
            **more,
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
