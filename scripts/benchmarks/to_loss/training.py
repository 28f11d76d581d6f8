"""One whole training on characters, in parts that can be timed one by one: a recipe, and what carries it out."""

from __future__ import annotations

import os
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.contestants import Contestant, Shape, here, nanogpt_at
from benchmarks.to_loss.text import draw, evaluate, read_characters, rows
from lit_llm.optim.adamw import adamw
from lit_llm.optim.muon import muon_adamw
from lit_llm.optim.schedules import cosine, linear

EVALUATED_PARTS = 3
"""The validation split is read after each of the last so many parts: nobody arrives earlier."""


@dataclass(frozen=True)
class Recipe:
    """All that a training depends on but the text and the seed.

    The sizes but the heads are those of nanoGPT's settings for a CPU. The other values are the best found on the last
    tenth of the training split; the validation split chose none.
    """

    steps: int
    model: Literal["here", "nanogpt"] = "here"
    qk_norm: bool = True
    optimizer: Literal["muon", "adamw", "nanogpt"] = "muon"
    lr: float = 0.015
    muon_lr: float = 0.008
    momentum: float = 0.85
    newton_schulz_steps: int = 3
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["linear", "cosine"] = "linear"
    repeated: bool = False  # windows drawn independently, as nanoGPT draws them
    rows: int = 12
    length: int = 64
    width: int = 128
    layers: int = 4
    heads: int = 2  # nanoGPT's 4 give the same loss, 1.870 after 180 steps (three seeds), in 1.1 times the time
    bf16: bool = True
    compiled: bool = False
    fused: bool = False  # nanoGPT's AdamW, which it fuses on a GPU alone; ours is fused


def nanogpt_recipe(steps: int, bf16: bool, compiled: bool, fused: bool) -> Recipe:
    """What nanoGPT's README gives for a CPU; ``bf16``, ``compiled`` and ``fused`` are not in it."""
    return Recipe(
        steps,
        model="nanogpt",
        optimizer="nanogpt",
        lr=1e-3,
        betas=(0.9, 0.99),
        schedule="cosine",
        repeated=True,
        heads=4,
        bf16=bf16,
        compiled=compiled,
        fused=fused,
    )


class Training:
    """A recipe's training with a seed, in ``parts`` calls after a first one, which only compiles.

    ``numbers`` are of the training so far: steps, seconds of the processor, and the validation loss of the last parts.
    """

    units = 1.0

    def __init__(self, recipe: Recipe, text: Path, nanogpt: Path, seed: int, parts: int, validation: bool) -> None:
        torch._dynamo.config.cache_size_limit = 64
        characters = read_characters(text, recipe.length)
        self.recipe, self.parts, self.done, self.cpu_seconds, self.called = recipe, parts, 0, 0.0, False
        self.training, self.heldout = characters.training, characters.validation
        if not validation:
            border = int(0.9 * len(self.training))
            self.training, self.heldout = self.training[:border], self.training[border:]
        torch.manual_seed(seed)
        self.model = _model(recipe, characters.vocab_size, nanogpt)
        self.parameters = list(self.model.parameters())
        self.optimizer = _optimizer(recipe, self.model)
        # nanoGPT's own: 100 of 2,000 steps of warm-up, a cosine to a tenth.
        shape, floor = (linear, 0.0) if recipe.schedule == "linear" else (cosine, 0.1)
        self.schedule = shape(self.optimizer, recipe.steps, warmup_ratio=0.05, min_lr_ratio=floor)
        generator = torch.Generator().manual_seed(seed)
        count = recipe.steps * recipe.rows
        self.starts = draw(self.training, count, recipe.length, recipe.repeated, generator).view(-1, recipe.rows)
        if recipe.compiled:
            self._code = TemporaryDirectory()  # empty, for everybody: nobody is given what another run compiled
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = self._code.name
            self.model.compile_network()

    def __call__(self) -> None:
        began = time.process_time()
        if not self.called:
            self.called = True
            self._backward(self.starts[0])  # the compiler works here; nothing is updated
            self.optimizer.zero_grad()
            self.cpu_seconds += time.process_time() - began
            return
        if self.done == self.recipe.steps:
            raise RuntimeError(f"all {self.done} steps are done: there is nothing left to time")
        for starts in self.starts[self.done : self._end(self.part + 1)]:
            self._backward(starts)
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()
            self.done += 1
        self.cpu_seconds += time.process_time() - began

    @property
    def part(self) -> int:
        """How many parts are done."""
        return next(part for part in range(self.parts + 1) if self._end(part) >= self.done)

    def numbers(self) -> dict[str, float]:
        values = {"steps": float(self.done), "cpu_seconds": self.cpu_seconds}
        if self.part > self.parts - EVALUATED_PARTS:
            values["loss"] = evaluate(self.model, self.heldout, self.recipe.length)
        return values

    def _end(self, part: int) -> int:
        return round(part * self.recipe.steps / self.parts)

    def _backward(self, starts: Tensor) -> None:
        inputs, labels = rows(self.training, starts, self.recipe.length)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bf16):
            loss: Tensor = self.model(inputs, labels)
        loss.backward()  # type: ignore[no-untyped-call]


def _model(recipe: Recipe, vocab_size: int, nanogpt: Path) -> Contestant:
    sizes = (recipe.width, recipe.layers, recipe.heads, vocab_size, recipe.length, recipe.rows)
    shape = Shape(*sizes, qk_norm=recipe.qk_norm)
    if recipe.model == "here":
        return here(shape)
    with redirect_stdout(sys.stderr):  # it prints its size
        return nanogpt_at(nanogpt, shape)


def _optimizer(recipe: Recipe, model: Contestant) -> torch.optim.Optimizer:
    if recipe.optimizer == "muon":
        return muon_adamw(
            model,
            lr=recipe.lr,
            muon_lr=recipe.muon_lr,
            momentum=recipe.momentum,
            betas=recipe.betas,
            newton_schulz_steps=recipe.newton_schulz_steps,
        )
    if recipe.optimizer == "adamw":
        return adamw(model, lr=recipe.lr, betas=recipe.betas)
    network: Any = model.network
    with redirect_stdout(sys.stderr):
        optimizer: torch.optim.Optimizer = network.configure_optimizers(0.1, recipe.lr, recipe.betas, "cpu")
    for group in optimizer.param_groups if recipe.fused else ():
        group["fused"] = True
    return optimizer
