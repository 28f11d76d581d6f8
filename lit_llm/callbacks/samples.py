"""Texts that the model writes while it trains, in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import zip_longest
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from lit_llm.callbacks.options import SamplesOptions
from lit_llm.errors import UserError
from lit_llm.generation.sampling import completions, generate
from lit_llm.records import IGNORE, Message, PromptBatch, TokenBatch
from lit_llm.runtime.lightning_loops import step_ended, steps_done

BEGINNING = 8  # tokens of a document that a sample goes on from


class Samples(L.Callback):
    """Completes a few prompts every so many steps and when training ends, and logs them as ``samples``.

    Sampling has random streams of its own, so that training is the same with and without it.

    Options: ``SamplesOptions``.
    """

    Options: ClassVar[type[SamplesOptions]] = SamplesOptions

    def __init__(self, options: SamplesOptions | None = None, **values: Any) -> None:
        self.options = SamplesOptions.of(options, values)
        self._last_step = -1
        self._ids: list[list[int]] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:  # noqa: ARG002
        """What cannot be sampled is said before the first step, not at the end of training."""
        model: Any = pl_module.model
        if not hasattr(model, "output_weight"):
            raise UserError("callbacks.samples: this stage's model gives scores, no words; give callbacks.samples=null")
        self._room(model)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:  # noqa: ARG002
        if self.options.every_n_steps and step_ended(trainer) and steps_done(trainer) % self.options.every_n_steps == 0:
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(trainer, pl_module)

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = steps_done(trainer)
        if step == self._last_step:
            return
        self._last_step = step
        whole = getattr(pl_module, "whole", None)  # of a stage: its model may be spread over processes
        with nullcontext(pl_module.model) if whole is None else whole(everywhere=False) as model:
            if trainer.is_global_zero:
                self._write(trainer, pl_module, model, step)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, model: Any, step: int) -> None:
        tokenizer: Any = pl_module.tokenizer
        if self._ids is None:
            own = self.options.prompts is None
            self._ids = prompts_of(trainer.datamodule, self.options.count) if own else self.encoded(tokenizer)  # type: ignore[attr-defined]
        if not self._ids:
            return
        prompts = self.options.prompts or [tokenizer.decode(row) for row in self._ids]
        texts = self.texts(model, tokenizer, self._ids)
        rows = "\n\n".join(f"**{_shown(prompt)}** {_shown(text)}" for prompt, text in zip(prompts, texts, strict=True))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", rows, step)

    def encoded(self, tokenizer: Any) -> list[list[int]]:
        """The tokens of the ``prompts`` that were given."""
        given = self.options.prompts or []
        if self.options.chat:
            return [tokenizer.encode_prompt([Message("user", prompt)]) for prompt in given]
        return [[*tokenizer.beginning, *tokenizer.encode(prompt)] for prompt in given]

    def texts(self, model: Any, tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[str]:
        """A completion of each prompt, special tokens left out."""
        room = self._room(model)
        rollout = generate(
            model,
            [list(row[-room:]) for row in ids],
            max_new_tokens=self.options.max_new_tokens,
            end_ids=tokenizer.end_ids,
            temperature=self.options.temperature,
            seed=self.options.seed,
        )
        return [tokenizer.decode(row) for row in completions(rollout)]

    def _room(self, model: Any) -> int:
        """Tokens that a prompt may have."""
        room = int(model.config.max_positions) - self.options.max_new_tokens
        if room < 1:
            raise UserError(
                f"callbacks.samples.max_new_tokens: {self.options.max_new_tokens}; the context has "
                f"{model.config.max_positions} positions"
            )
        return room


def prompts_of(data: Any, count: int) -> list[list[int]]:
    """The tokens of ``count`` prompts (fewer where there are not so many rows) of a DataModule, spread over its rows
    and sources; none where it does not say what it prepared."""
    prepared = getattr(data, "prepared", None)
    if prepared is None:
        return []
    sources = [rows for rows in prepared.validation.values() if len(rows)] or [prepared.train]
    share = -(-count // len(sources))
    places = [(rows, turn * len(rows) // share) for turn in range(share) for rows in sources]
    rows_of_prompts = [prompts_in(rows.collate([rows[index]]), first=index == 0) for rows, index in places]
    # The first of each row before the second of any; parts only where there is nothing whole.
    ordered = [prompt for turn in zip_longest(*rows_of_prompts) for prompt in turn if prompt is not None]
    found = [tokens for part, tokens in ordered if not part] or [tokens for _, tokens in ordered]
    return [list(tokens) for tokens in dict.fromkeys(found)][:count]


def prompts_in(batch: Any, first: bool) -> list[tuple[bool, tuple[int, ...]]]:
    """The prompts in the first row of a batch of any kind: what stands before the first trained token; where all of a
    text is trained its first ``BEGINNING`` tokens. Beside each, whether it may be a part: a row may begin within a
    document (unless it is the ``first`` of the data), and end soon after one begins.
    """
    if isinstance(batch, PromptBatch):
        return [(False, tuple(batch.input_ids[0, : int(batch.lengths[0])].tolist()))]
    if not isinstance(batch, TokenBatch):
        return [(False, tuple(batch.completions.rows[0][0].tolist()))]
    ids, trained, segments = batch.input_ids[0], batch.labels[0] != IGNORE, batch.segments[0]
    found = []
    for segment in sorted(set(segments.tolist())):
        here = segments == segment
        if trained[here].any():
            start = int(trained[here].int().argmax())
            tokens = tuple(ids[here][: start + 1 if start else BEGINNING].tolist())
            found.append((start == 0 and (len(tokens) < BEGINNING or (segment == 0 and not first)), tokens))
    return found


def _shown(text: str) -> str:
    """As plain text in TensorBoard's Markdown: no HTML, and line ends stay."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
    return escaped.replace("\n", "  \n")
