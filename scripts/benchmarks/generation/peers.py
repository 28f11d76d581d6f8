"""Peers that take part in generation, each as it is meant to be called.

All get the very weights of the model here. Transformers' ``generate`` and litgpt work on ``batch`` prompts at a time,
each time until the longest answer is done; transformers' continuous batching takes a new prompt into the running batch
when an answer is done, as is done here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.contestants import litgpt, transformers
from benchmarks.generation.here import GREEDY, Task, model
from benchmarks.race import wait_for


class _Peer:
    """What the race asks of everybody."""

    task: Task

    @property
    def units(self) -> float:
        return self.task.units

    @property
    def device(self) -> torch.device:
        return torch.device(self.task.device)

    def wait(self) -> None:
        wait_for(self.device)


class Transformers(_Peer):
    """``generate`` of a Llama with the same weights, prompts padded on the left.

    ``compiled``: its own compilation of a step with the static cache, which it does on a GPU only unless told to.
    """

    def __init__(self, task: Task, cache: str, attention: str, compiled: bool = False) -> None:
        self.task = task
        self.model: Any = _llama(task, attention)
        settings = self.model.generation_config
        settings.cache_implementation = cache
        settings.disable_compile = not compiled
        if compiled:
            from transformers import CompileConfig

            # Not "reduce-overhead", which is about CUDA's graphs.
            settings.compile_config = CompileConfig(mode="default")
            settings.compile_config._compile_all_devices = True

    def __call__(self) -> None:
        for prompts, limit in self.task.batches():
            self.run(prompts, limit, True)

    def run(self, prompts: Sequence[Sequence[int]], limit: int, sample: bool) -> Tensor:
        longest = max(map(len, prompts))
        fill = [longest - len(prompt) for prompt in prompts]
        rows = [[0] * empty + list(prompt) for empty, prompt in zip(fill, prompts, strict=True)]
        seen = [[0] * empty + [1] * (longest - empty) for empty in fill]
        ids, mask = torch.tensor(rows, device=self.device), torch.tensor(seen, device=self.device)
        out: Tensor = self.model.generate(ids, attention_mask=mask, max_new_tokens=limit, do_sample=sample)
        return out

    def numbers(self) -> dict[str, float]:
        return {"greedy": float(self.run(self.task.prompts[:1], GREEDY, False).sum())}


class Continuous(_Peer):
    """Transformers' continuous batching, at most ``batch`` prompts at once, every prompt with the limit of its own.

    The cache has room for ``batch`` of the longest prompts with the longest answers; it would take 60% of the memory.
    """

    def __init__(self, task: Task, attention: str) -> None:
        self.task = task
        self.model: Any = _llama(task, attention)
        (answer,) = self.run(task.prompts[:1], [GREEDY], False)
        self.greedy = float(sum(task.prompts[0]) + sum(answer))

    def __call__(self) -> None:
        self.run(self.task.prompts, self.task.limits, True)

    def run(self, prompts: Sequence[Sequence[int]], limits: Sequence[int], sample: bool) -> list[list[int]]:
        """The answers. What samples is kept for the next call, as its users may; what is greedy is set up anew."""
        from transformers import ContinuousBatchingConfig

        if not sample:
            self.model.destroy_cached_continuous_batching_manager()
        settings = self.model.generation_config
        settings.do_sample, settings.eos_token_id = sample, -1
        size, prompt = self.task.shape.batch, max(map(len, self.task.prompts))
        config = ContinuousBatchingConfig(max_requests_per_batch=size, allow_block_sharing=False)
        config.num_blocks = size * -(-(prompt + max(GREEDY, *self.task.limits)) // config.page_size)
        config.max_batch_tokens = size * prompt
        with self.model.continuous_batching_context_manager(
            continuous_batching_config=config, persistent_manager=sample, warmup=False
        ) as manager:
            names = [
                manager.add_request(list(prompt), max_new_tokens=limit, eos_token_id=-1)
                for prompt, limit in zip(prompts, limits, strict=True)
            ]
            answers = _answers(manager, len(names))
        return [answers[name] for name in names]

    def numbers(self) -> dict[str, float]:
        return {"greedy": self.greedy}


def _answers(manager: Any, count: int) -> dict[str, list[int]]:
    """Generated ids by the request's name, once ``count`` requests are done."""
    found: dict[str, list[int]] = {}
    while len(found) < count:
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise RuntimeError("continuous batching ended before its answers were done")
        if result is not None and result.error is not None:
            raise RuntimeError(result.error)
        if result is not None and result.is_finished():
            found[result.request_id] = result.generated_tokens
    return found


class LitGPT(_Peer):
    """Its own generation: one prompt at a time with batch 1, else its batched one, which takes prompts of one length:
    all are given the longest prompt's, so that it computes what padding would (and answers something else).

    ``compiled``: the step, as its command's ``--compile`` does it.
    """

    def __init__(self, task: Task, compiled: bool = False) -> None:
        from litgpt.generate import base
        from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama

        self.task = task
        network: Any = litgpt(task.shape).network
        weights: dict[str, Tensor] = {}
        copy_weights_hf_llama(network.config, {}, weights, _weights(task))
        network.load_state_dict(weights)
        self.model = network.to(self.device, task.dtype).eval()
        self.longest = max(map(len, task.prompts))
        self.model.max_seq_length = self.longest + max(GREEDY, *task.limits)
        self.model.set_kv_cache(batch_size=task.shape.batch, dtype=task.dtype, device=self.device)
        if compiled:
            step = "next_token" if task.shape.batch == 1 else "batched_next_token"
            setattr(base, step, torch.compile(getattr(base, step), mode="reduce-overhead"))

    def __call__(self) -> None:
        for prompts, limit in self.task.batches():
            self.run(prompts, self.longest, limit, 1.0)

    def run(self, prompts: Sequence[Sequence[int]], longest: int, limit: int, temperature: float) -> list[Any]:
        """Its answers, a step after another, to prompts that are made ``longest`` tokens long."""
        from litgpt.generate.base import batched_generate_fn, generate_fn

        wanted: dict[str, Any] = {"include_prompt": False, "include_eos": False}
        if self.task.shape.batch == 1:
            ids = torch.tensor(prompts[0], device=self.device)
            return list(generate_fn(self.model, ids, len(ids) + limit, temperature=temperature, **wanted))
        padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        ids = torch.tensor(padded, device=self.device)
        sampled = {"temperature": temperature}
        return list(batched_generate_fn(self.model, ids, longest + limit, sample_args=sampled, **wanted))

    def numbers(self) -> dict[str, float]:
        prompt, size = self.task.prompts[0], self.task.shape.batch
        steps = self.run([prompt] * size, len(prompt), GREEDY, 0.0)
        return {"greedy": float(sum(prompt) + sum(int(step[0] if size > 1 else step) for step in steps))}


def _llama(task: Task, attention: str) -> Any:
    """The model here as transformers' own, in the task's precision, sampling from everything."""
    made: Any = transformers(attention, task.shape).network
    made.load_state_dict(_weights(task))
    made.to(task.device, task.dtype).eval()
    settings = made.generation_config
    settings.use_cache = made.config.use_cache = True
    settings.eos_token_id, settings.pad_token_id, settings.top_k, settings.top_p = None, 0, 0, 1.0
    return made


def _weights(task: Task) -> dict[str, Tensor]:
    """Of the model here, under the names that Llama's have."""
    return {key.replace("backbone.", "model.", 1): value for key, value in model(task.shape).state_dict().items()}
