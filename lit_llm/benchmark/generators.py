"""Who takes part in generation: ``generate`` here and in peers, each as it is meant to be called, weights drawn alike.

Transformers gets the very weights of the model here, litgpt weights of the same shape. None of the peers takes a new
prompt into a running batch: they work on ``batch`` prompts at a time, each time until the longest answer is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.heads import LanguageModel
from lit_llm.benchmark.contestants import Shape, litgpt
from lit_llm.generation.sampling import generate


@dataclass(frozen=True)
class Task:
    """Prompts of unlike lengths, and how many tokens each answer has.

    The end token would come at unlike places; so that all do the same work it is a limit drawn for every prompt.
    """

    shape: Shape
    dtype: torch.dtype
    prompts: tuple[tuple[int, ...], ...]
    limits: tuple[int, ...]

    @property
    def units(self) -> float:
        """New tokens that were asked for."""
        return sum(self.limits)

    def batches(self) -> list[tuple[list[tuple[int, ...]], int]]:
        """As peers work on them: ``shape.batch`` prompts, and the longest of their answers."""
        size = self.shape.batch
        starts = range(0, len(self.prompts), size)
        return [(list(self.prompts[start : start + size]), max(self.limits[start : start + size])) for start in starts]


def draw(shape: Shape, dtype: torch.dtype, count: int, prompt: tuple[int, int], answer: tuple[int, int]) -> Task:
    """``count`` prompts and answers whose lengths are drawn evenly from these (least, most)."""
    generator = torch.Generator().manual_seed(0)

    def lengths(least: int, most: int) -> list[int]:
        return torch.randint(least, most + 1, (count,), generator=generator).tolist()

    limits = lengths(*answer)
    prompts = [torch.randint(shape.vocab_size, (n,), generator=generator).tolist() for n in lengths(*prompt)]
    return Task(shape, dtype, tuple(map(tuple, prompts)), tuple(limits))


class Here:
    """``generate`` with float32 weights that it brings into the task's precision at every call, as in training."""

    def __init__(self, task: Task) -> None:
        self.task, self.model = task, _model(task.shape)

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
        )
        ids: list[int] = rollout.input_ids[-1, : int(rollout.lengths[-1])].tolist()
        return ids

    def numbers(self) -> dict[str, float]:
        """What is likeliest after the first prompt, to be compared with transformers'."""
        return {"greedy": float(sum(self.run(self.task.prompts[:1], [8], 0.0)))}


class Transformers:
    """``generate`` of a Llama with the same weights, prompts padded on the left."""

    def __init__(self, task: Task, cache: str, attention: str) -> None:
        import transformers as library

        self.task = task
        source = _model(task.shape)
        self.model: Any = _untyped(library.LlamaForCausalLM(_llama(library, source.config, attention)))
        named = {key.replace("backbone.", "model.", 1): value for key, value in source.state_dict().items()}
        self.model.load_state_dict(named)
        self.model.to(task.dtype).eval()
        settings = self.model.generation_config
        settings.eos_token_id, settings.pad_token_id, settings.top_k, settings.top_p = None, 0, 0, 1.0
        settings.cache_implementation = cache

    @property
    def units(self) -> float:
        return self.task.units

    def __call__(self) -> None:
        for prompts, limit in self.task.batches():
            self.run(prompts, limit, True)

    def run(self, prompts: Sequence[Sequence[int]], limit: int, sample: bool) -> Tensor:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        out: Tensor = self.model.generate(ids, attention_mask=mask, max_new_tokens=limit, do_sample=sample)
        return out

    def numbers(self) -> dict[str, float]:
        return {"greedy": float(self.run(self.task.prompts[:1], 8, False).sum())}


class LitGPT:
    """Its own generation: one prompt at a time with batch 1, else its batched one, which takes prompts of one length:
    all are given the longest prompt's, so that it computes what padding would (and answers something else)."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.model: Any = _untyped(litgpt(task.shape).network.to(task.dtype).eval())
        self.longest = max(map(len, task.prompts))
        self.model.max_seq_length = self.longest + max(task.limits)
        self.model.set_kv_cache(batch_size=task.shape.batch, dtype=task.dtype)

    @property
    def units(self) -> float:
        return self.task.units

    def __call__(self) -> None:
        from litgpt.generate.base import batched_generate_fn, generate_fn

        wanted: dict[str, Any] = {"include_prompt": False, "include_eos": False}
        for prompts, limit in self.task.batches():
            if self.task.shape.batch == 1:
                ids = torch.tensor(prompts[0])
                list(generate_fn(self.model, ids, len(ids) + limit, temperature=1.0, **wanted))
                continue
            ids = torch.tensor([[*prompt, *[0] * (self.longest - len(prompt))] for prompt in prompts])
            list(batched_generate_fn(self.model, ids, self.longest + limit, sample_args={"temperature": 1.0}, **wanted))


def _untyped(model: Any) -> Any:
    return model


def _model(shape: Shape) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(shape.config()).eval()


def _llama(library: Any, config: BackboneConfig, attention: str) -> Any:
    return library.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_positions,
        rms_norm_eps=config.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=True,
        attn_implementation=attention,
    )
