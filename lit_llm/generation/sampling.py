"""Batched sampling with a KV cache: many prompts in, completions with their log-probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.norm import compute_dtype
from lit_llm.errors import UserError
from lit_llm.generation.choice import Choice
from lit_llm.generation.scheduler import BatchScheduler
from lit_llm.generation.transformers_decoder import decoder_for
from lit_llm.records import Message, Rollout
from lit_llm.runtime.progress_bars import Bar
from lit_llm.text.tokenizer import Tokenizer

Prompts = Sequence[Sequence[int]] | tuple[Tensor, Tensor]


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompts: Prompts,
    *,
    max_new_tokens: int | Sequence[int],
    end_ids: Sequence[int],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    samples: int = 1,
    seed: int = 0,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
    dtype: torch.dtype | None = None,
    cuda_graph: bool = False,
    stopped: Callable[[Tensor, Tensor], Tensor] | None = None,
    progress: str | None = None,
) -> Rollout:
    """Completes every prompt ``samples`` times (copies side by side, their prompt computed once).

    Args:
        prompts: lists of ids, or right-padded ``(input_ids (B, T), lengths (B,))``. They are worked on longest first
            and come back in the order given.
        max_new_tokens: at most so many, for all prompts or for each its own, fewer where the model's context ends.
        end_ids: any of these ends a completion and is its last token.
        temperature, top_k, top_p: see ``Choice``. In RL leave top_k and top_p out: scoring would renormalise over
            another set of tokens.
        seed: of the sampling. A prompt's completion depends on the seed and its place in ``prompts``, not on
            ``batch_size`` (up to rounding). ``generator`` (a CPU one), if given, is drawn from instead.
        batch_size: how many prompts are worked on at once; a finished one makes room for the next.
        dtype: of the matrix products (torch.bfloat16: faster where the machine is good at it), with all between them in
            float32 at least; None: the model's own, or autocast's where it is on.
        cuda_graph: records a step and replays it (on a GPU; not tried on one yet).
        stopped: what else ends a completion, such as ``StopStrings``: see ``BatchScheduler``.
        progress: the name of a progress bar; None shows none.

    Returns:
        Rollout on the model's device; ``logps`` is float32 under the distribution that was sampled from.

    Raises:
        UserError: an empty prompt, one that fills the context, options out of range, logits that are no numbers.
    """
    choice = Choice(temperature, top_k, top_p)
    device = model.output_weight.device
    if cuda_graph and device.type != "cuda":
        raise UserError(f"cuda_graph=True: the model is on {device.type}; a recorded step needs a GPU")
    rows, lengths = _as_tensors(prompts, device)
    limits = _limits(lengths, max_new_tokens, model.config.max_positions)
    rows, lengths, limits = (x.repeat_interleave(samples, dim=0) for x in (rows, lengths, limits))
    if generator is None:
        generator = torch.Generator().manual_seed(seed)
    most = max_new_tokens if isinstance(max_new_tokens, int) else max(max_new_tokens, default=1)
    uniforms = torch.rand(len(rows), most, generator=generator).to(device)
    # Under autocast in the precision that the model would compute in, with weights that are cast once.
    dtype = dtype or compute_dtype(model.output_weight)
    with (
        torch.autocast(device.type, enabled=False),
        Bar(total=len(rows), desc=progress, disable=progress is None) as bar,
    ):
        positions = int((lengths + limits).max()) if len(rows) else 1
        decoder = decoder_for(model, dtype, cuda_graph, positions, min(batch_size, len(rows)))
        slots = BatchScheduler(decoder, choice, rows, lengths, limits, uniforms, end_ids, batch_size, stopped)
        with torch.inference_mode():
            while (done := slots.step()) is not None:
                bar.update(done)
    return slots.rollout()


def respond(
    model: LanguageModel,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    progress: str | None = None,
) -> list[str]:
    """The assistant's next turn for each conversation, ``samples`` of each side by side; ends with a user's turn."""
    prompts = [tokenizer.encode_prompt(messages) for messages in conversations]
    rollout = generate(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        end_ids=tokenizer.end_ids,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    return [tokenizer.decode(ids) for ids in completions(rollout)]


def completions(rollout: Rollout) -> list[list[int]]:
    """The ids of each completion without the prompt and without the end token."""
    ids, starts = rollout.input_ids.tolist(), rollout.prompt_lengths.tolist()
    ends = (rollout.lengths - rollout.finished.long()).tolist()
    return [row[start:end] for row, start, end in zip(ids, starts, ends, strict=True)]


def _as_tensors(prompts: Prompts, device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded (B, T) ids and (B,) lengths."""
    if isinstance(prompts, tuple) and isinstance(prompts[0], Tensor):
        rows, lengths = prompts[0].to(device), prompts[1].to(device)
    else:
        lists = cast(Sequence[Sequence[int]], prompts)
        counts = [len(prompt) for prompt in lists]
        rows = torch.zeros(len(counts), max(counts, default=0), dtype=torch.int64)
        for number, prompt in enumerate(lists):
            rows[number, : len(prompt)] = torch.as_tensor(prompt, dtype=torch.int64)
        rows, lengths = rows.to(device), torch.tensor(counts, dtype=torch.int64, device=device)
    if len(lengths) and int(lengths.min()) < 1:
        raise UserError(f"prompt {int(lengths.argmin())} is empty: give at least one token to go on from")
    return rows, lengths


def _limits(lengths: Tensor, max_new_tokens: int | Sequence[int], context: int) -> Tensor:
    """How many tokens each completion may have."""
    wanted = [max_new_tokens] * len(lengths) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    least = max_new_tokens if isinstance(max_new_tokens, int) else min(wanted, default=1)
    if least < 1:
        raise UserError(f"max_new_tokens={least}: must be at least 1")
    if len(wanted) != len(lengths):
        raise UserError(f"max_new_tokens: {len(wanted)} numbers for {len(lengths)} prompts; give one each")
    if len(lengths) and int(lengths.max()) >= context:
        raise UserError(
            f"prompt {int(lengths.argmax())} has {int(lengths.max())} tokens: the model's context holds {context} and "
            "at least one must be left for the answer; shorten the prompt"
        )
    return torch.minimum(context - lengths, torch.tensor(wanted, dtype=torch.int64, device=lengths.device))
