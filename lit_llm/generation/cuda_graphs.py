"""A decoding step as a CUDA graph: one launch instead of some twenty for each layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lit_llm.generation.kv_cache import BatchKVCache

Compute = Callable[[Tensor, BatchKVCache], Tensor]


class CUDAGraphs:
    """Calls ``compute(tokens, cache) -> logits`` through a recording of it, made anew when the cache's memory moves.

    The tokens and the logits have memory of their own, and ``compute`` changes the cache in place, so that a recording
    replayed does what a call would. Needs CUDA; never run there yet, so it is off unless asked for. The tests replace
    ``record``.
    """

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self._memory: tuple[int, ...] = ()

    def __call__(self, tokens: Tensor, cache: BatchKVCache) -> Tensor:
        tensors = (*cache.memory, cache.lengths)
        memory = (cache.capacity, *(tensor.data_ptr() for tensor in tensors))
        if memory != self._memory:
            self._memory = memory
            self._tokens = tokens.clone()
            self._warm_up(cache)
            self._logits, self._replay = self.record(lambda: self.compute(self._tokens, cache), tokens.device)
        self._tokens.copy_(tokens)
        self._replay()
        return self._logits

    def _warm_up(self, cache: BatchKVCache) -> None:
        """One call that leaves nothing behind: what libraries set up at a first call cannot be recorded. The slot that
        it writes is written again."""
        lengths = cache.lengths.clone()
        self.compute(self._tokens, cache)
        cache.lengths.copy_(lengths)

    def record(self, call: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], object]]:
        """The result's memory, and what computes it again. The call is recorded, not run."""
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = call()
        return logits, graph.replay
