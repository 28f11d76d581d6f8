"""Texts that the model writes while it trains, in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from lit_llm.callbacks.steps import step_ended, steps_done
from lit_llm.errors import UserError
from lit_llm.generation.sampling import completions, generate
from lit_llm.records import Message


class Samples(L.Callback):
    """Completes a few prompts every so many steps and when training ends, and logs them as ``samples``.

    Sampling has random streams of its own, so that training is the same with and without it.

    Args:
        prompts: what to go on from.
        every_n_steps: optimizer steps (rollouts of PPO) between samples; None: only when training ends.
        chat: the prompts are a user's questions, answered through the chat template.
        max_new_tokens, temperature, seed: of the sampling.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        every_n_steps: int | None = 100,
        chat: bool = False,
        max_new_tokens: int = 48,
        temperature: float = 0.8,
        seed: int = 0,
    ) -> None:
        if not prompts or not all(prompts):
            raise UserError(f"callbacks.samples.prompts: {list(prompts)}; give one text or more, none of them empty")
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"callbacks.samples.every_n_steps: {every_n_steps}; must be 1 or more, or null")
        self.prompts, self.every_n_steps, self.chat = list(prompts), every_n_steps, chat
        self.max_new_tokens, self.temperature, self.seed = max_new_tokens, temperature, seed
        self._last_step = -1

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:  # noqa: ARG002
        if self.every_n_steps and step_ended(trainer) and steps_done(trainer) % self.every_n_steps == 0:
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(trainer, pl_module)

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = steps_done(trainer)
        if step == self._last_step or not trainer.is_global_zero:
            return
        self._last_step = step
        texts = self.texts(pl_module.model, pl_module.tokenizer)
        rows = "\n\n".join(
            f"**{_shown(prompt)}** {_shown(text)}" for prompt, text in zip(self.prompts, texts, strict=True)
        )
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", rows, step)

    def texts(self, model: Any, tokenizer: Any) -> list[str]:
        """A completion of each prompt, special tokens left out."""
        if self.chat:
            ids = [tokenizer.chat.encode_prompt(tokenizer, [Message("user", prompt)]) for prompt in self.prompts]
        else:
            ids = [[*tokenizer.beginning, *tokenizer.encode(prompt)] for prompt in self.prompts]
        room = model.config.max_positions - self.max_new_tokens
        if room < 1:
            raise UserError(f"callbacks.samples.max_new_tokens: {self.max_new_tokens}; the context has "
                            f"{model.config.max_positions} positions")  # fmt: skip
        rollout = generate(
            model,
            [row[-room:] for row in ids],
            max_new_tokens=self.max_new_tokens,
            end_ids=tokenizer.end_ids,
            temperature=self.temperature,
            seed=self.seed,
        )
        return [tokenizer.decode(row) for row in completions(rollout)]


def _shown(text: str) -> str:
    """As plain text in TensorBoard's Markdown: no HTML, and line ends stay."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
    return escaped.replace("\n", "  \n")
