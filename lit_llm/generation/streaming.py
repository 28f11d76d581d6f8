"""One completion, token by token, and its text as soon as a reader can show it."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable, Iterator, Sequence

import torch

from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.norm import compute_dtype
from lit_llm.errors import UserError
from lit_llm.generation.choice import NOT_FINITE, Choice
from lit_llm.generation.transformers_decoder import AnyDecoder, decoder_for
from lit_llm.text.tokenizer import Tokenizer

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@torch.no_grad()
def stream(
    model: LanguageModel | AnyDecoder,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    end_ids: Sequence[int],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yields the ids that follow ``prompt`` as they are chosen, without the end token; stops where the context ends.

    ``model``: one in eval mode, or a ``Decoder`` made of it, which several streams can share. Raises UserError for an
    empty prompt or one that fills the context, for ``max_new_tokens`` below 1, and where logits are no numbers.
    """
    choice = Choice(temperature, top_k, top_p)
    context = model.config.max_positions if isinstance(model, LanguageModel) else model.positions
    room = context - len(prompt)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens={max_new_tokens}: must be at least 1")
    if not prompt:
        raise UserError("the prompt is empty: give at least one token to go on from")
    if room < 1:
        raise UserError(f"the prompt has {len(prompt)} tokens: the model's context holds {context}")
    limit = min(max_new_tokens, room)
    if generator is None:
        generator = torch.Generator().manual_seed(seed)
    decoder = decoder_of(model, len(prompt) + limit) if isinstance(model, LanguageModel) else model
    with torch.autocast(decoder.device.type, enabled=False):
        tokens, cache = decoder.begin(prompt)
    for _ in range(limit):
        with torch.autocast(decoder.device.type, enabled=False):
            logits = decoder.step(tokens, cache)
        tokens, logps = choice.pick(logits, torch.rand(1, generator=generator).to(decoder.device))
        if not math.isfinite(float(logps)):
            raise UserError(NOT_FINITE)
        token = int(tokens)
        if token in end_ids:
            return
        yield token


def decoder_of(model: LanguageModel, positions: int | None = None, rows: int = 1, consume: bool = False) -> AnyDecoder:
    """In the precision that the model computes in; arguments as ``Decoder``."""
    return decoder_for(model, compute_dtype(model.output_weight), positions=positions, rows=rows, consume=consume)


def stream_text(tokenizer: Tokenizer, ids: Iterable[int], before: Sequence[int] = ()) -> Iterator[str]:
    """The text of ``ids`` piece by piece, each piece of whole characters: a character whose bytes are spread over
    several tokens (Arabic, emoji) comes when it is complete. Control tokens are left out. The pieces join to
    ``tokenizer.decode(ids)``; with the ids that they go on from in ``before``, to what these make of them (a
    sentencepiece tokenizer takes the blank off a text's first word, and of no other)."""
    if not tokenizer.byte_level:
        yield from _decoded(tokenizer, ids, before)
        return
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    control = set(tokenizer.control_tokens.values())
    for token in ids:
        text = "" if token in control else decoder.decode(tokenizer.token_bytes(token))
        if text:
            yield text
    if rest := decoder.decode(b"", final=True):
        yield rest


def _decoded(tokenizer: Tokenizer, ids: Iterable[int], before: Sequence[int]) -> Iterator[str]:
    """By the library, from a few tokens back: what it makes of a token depends on those before it."""
    control = set(tokenizer.control_tokens.values())
    known = [token for token in before[-8:] if token not in control]
    shown = len(tokenizer.decode(known))
    held = list[int]()
    for token in ids:
        if token in control:
            continue
        held.append(token)
        if _BYTE.fullmatch(str(tokenizer.engine.id_to_token(token))):
            continue  # a run of bytes is text only when it is whole
        if text := tokenizer.decode([*known, *held])[shown:]:
            yield text
        known, held = [token], []
        shown = len(tokenizer.decode(known))
    if held and (text := tokenizer.decode([*known, *held])[shown:]):
        yield text
