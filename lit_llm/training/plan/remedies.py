"""What would make a run fit in memory, in words that its command takes."""

from __future__ import annotations

from dataclasses import replace

import torch

from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.new_rows import count_trained
from lit_llm.backbone.transformers_config import TransformersConfig
from lit_llm.stages.options import AdapterOptions, RolloutOptions, StageOptions
from lit_llm.training.plan.activations import Activations
from lit_llm.training.plan.memory import Pass, Shape, adapted, with_gradients


def what_would_fit(shape: Shape, of: Pass, process: float, room: float) -> list[tuple[str, float]]:
    """Changes, by the words of the command line, each with what the run would hold then; the smallest change first.
    Where one row at a time is too much, recomputation and adapters are tried with it."""
    found: list[tuple[str, float]] = []
    known = shape.activations(of.length)
    fixed = shape.memory(replace(of, rows=0), process, known).training - known.of(shape.config.num_layers, 0)
    rows = min(of.rows, known.rows_within(shape.config.num_layers, room - fixed))
    if rows < of.rows and (fewer := _fewer_rows(shape, of, rows)) is not None:
        found.append((fewer[0], shape.memory(fewer[1], process, known).total))
    if (answers := _fewer_answers(shape, of, process, room, known)) is not None:
        found.append(answers)
    single, one = _fewer_rows(shape, of, 0) or ("", of)
    again = replace(shape, checkpointing=True)
    if not shape.checkpointing:
        found.append(("trainer.gradient_checkpointing=true", again.memory(of, process).total))
    if isinstance(shape.options, AdapterOptions) and not shape.options.lora_rank:
        options = replace(shape.options, lora_rank=16)
        beside = _with_options(shape, options)
        found.append(("stage.lora_rank=16", beside.memory(of, process).total))
        least = replace(beside, checkpointing=True).memory(one, process).total
        found.append((f"stage.lora_rank=16 trainer.gradient_checkpointing=true {single}".rstrip(), least))
    ours = not isinstance(shape.config, TransformersConfig)
    if ours and isinstance(shape.options, AdapterOptions) and not shape.options.lora_quantization:
        options = replace(shape.options, lora_rank=shape.options.lora_rank or 16, lora_quantization="nf4")
        words = f"stage.lora_rank={options.lora_rank} stage.lora_quantization=nf4"
        small = _with_options(shape, options)
        found.append((words, small.memory(of, process).total))
        least = replace(small, checkpointing=True).memory(one, process).total
        found.append((f"{words} trainer.gradient_checkpointing=true {single}".rstrip(), least))
    return found


def _fewer_rows(shape: Shape, of: Pass, rows: int) -> tuple[str, Pass] | None:
    """What makes a pass of so many rows at most, or as few as there can be, in a value that the run takes; and that
    pass. None: it is as small already. A comparison brings several rows."""
    if isinstance(shape.options, RolloutOptions):  # whose minibatches are computed in parts
        rows = max(1, rows)
        return None if of.rows <= rows else (f"stage.micro_batch_size={rows}", replace(of, rows=rows))
    micro, then = shape.micro, of.rows
    for less in (each for each in range(shape.micro - 1, 0, -1) if shape.step is None or shape.step % each == 0):
        micro, then = less, -(-of.rows * less // shape.micro)
        if then <= rows:
            break
    return None if micro == shape.micro else (f"data.micro_batch_size={micro}", replace(of, rows=then))


def _fewer_answers(shape: Shape, of: Pass, process: float, room: float, known: Activations) -> tuple[str, float] | None:
    """Of a rollout: the most prompts whose answers can be sampled at once in so many bytes; None: they fit."""
    options = shape.options
    if not isinstance(options, RolloutOptions) or shape.memory(of, process, known).sampling <= room:
        return None
    found = None
    for prompts in range(shape.micro - 1, 0, -1):
        answers = prompts * options.answers_to_a_prompt
        if answers % options.minibatches:
            continue
        rows = min(of.rows, answers // options.minibatches)
        held = shape.memory(replace(of, rows=rows, sampled=(answers, of.sampled[1])), process, known)
        found = f"data.micro_batch_size={prompts}", held.total
        if held.sampling <= room:
            break
    return found


def _with_options(shape: Shape, options: StageOptions) -> Shape:
    """The shape with adapters, which are what is trained then, with two numbers of the optimizer each (AdamW)."""
    with torch.device("meta"):
        model = LanguageModel(shape.config)
        adapted(model, options)
    trained, gradients = count_trained(model), with_gradients(model)
    after = max(1, shape.after)
    return replace(shape, options=options, trained=trained, gradients=gradients, states=2 * trained, after=after)
