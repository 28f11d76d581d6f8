"""The task of everybody who takes part in generation, and ``generate`` here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.contestants import Shape
from benchmarks.race import wait_for
from lit_llm.backbone.models import LanguageModel
from lit_llm.generation.sampling import generate

GREEDY = 8
"""Tokens of the likeliest answer to the first prompt, by which everybody is compared."""


@dataclass(frozen=True)
class Task:
    """Prompts of unlike lengths, and how many tokens each answer has.

    The end token would come at unlike places; so that all do the same work it is a limit drawn for every prompt.
    """

    shape: Shape
    dtype: torch.dtype
    prompts: tuple[tuple[int, ...], ...]
    limits: tuple[int, ...]
    device: str = "cpu"

    @property
    def units(self) -> float:
        """New tokens that were asked for."""
        return sum(self.limits)

    def batches(self) -> list[tuple[list[tuple[int, ...]], int]]:
        """As peers without continuous batching work: ``shape.batch`` prompts, and the longest of their answers."""
        size = self.shape.batch
        starts = range(0, len(self.prompts), size)
        return [(list(self.prompts[start : start + size]), max(self.limits[start : start + size])) for start in starts]


def draw(
    shape: Shape,
    dtype: torch.dtype,
    count: int,
    prompt: tuple[int, int],
    answer: tuple[int, int],
    device: str = "cpu",
) -> Task:
    """``count`` prompts and answers whose lengths are drawn evenly from these (least, most)."""
    generator = torch.Generator().manual_seed(0)

    def lengths(least: int, most: int) -> list[int]:
        return torch.randint(least, most + 1, (count,), generator=generator).tolist()

    limits = lengths(*answer)
    prompts = [torch.randint(shape.vocab_size, (n,), generator=generator).tolist() for n in lengths(*prompt)]
    return Task(shape, dtype, tuple(map(tuple, prompts)), tuple(limits), device)


class Here:
    """``generate`` with float32 weights that it brings into the task's precision at every call, as in training.

    ``recorded``: its steps are replayed from a CUDA graph, on a GPU.
    """

    def __init__(self, task: Task, recorded: bool = False) -> None:
        self.task, self.recorded = task, recorded
        self.model = model(task.shape).to(task.device)
        self.device = torch.device(task.device)

    @property
    def units(self) -> float:
        return self.task.units

    def __call__(self) -> None:
        self.run(self.task.prompts, self.task.limits, 1.0)

    def run(self, prompts: Sequence[Sequence[int]], limits: Sequence[int], temperature: float) -> list[int]:
        """The last prompt with its answer."""
        size = self.task.shape.batch
        rollout = generate(
            self.model,
            prompts,
            max_new_tokens=limits,
            end_ids=(),
            temperature=temperature,
            batch_size=size,
            dtype=self.task.dtype,
            cuda_graph=self.recorded,
        )
        ids: list[int] = rollout.input_ids[-1, : int(rollout.lengths[-1])].tolist()
        return ids

    def numbers(self) -> dict[str, float]:
        """What is likeliest after the first prompt, to be compared with the peers'."""
        return {"greedy": float(sum(self.run(self.task.prompts[:1], [GREEDY], 0.0)))}

    def wait(self) -> None:
        wait_for(self.device)


def model(shape: Shape) -> LanguageModel:
    """The same weights in every contestant's process."""
    torch.manual_seed(0)
    return LanguageModel(shape.config()).eval()
