"""The most likely next words, with probabilities of words: a beam over tokens that runs to where the word ends."""

from __future__ import annotations

import codecs
import math
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.streaming import decoder_of
from lit_llm.text.tokenizer import Tokenizer

MAX_TOKENS = 16  # of a word


class Word(NamedTuple):
    text: str
    probability: float


@dataclass(frozen=True)
class _Path:
    """Tokens chosen so far, as bytes: white space, then a part of a word (or nothing yet)."""

    spelled: bytes
    logp: float


@torch.no_grad()
def next_words(model: LanguageModel, tokenizer: Tokenizer, text: str, count: int = 5, *, beams: int = 48) -> list[Word]:
    """The ``count`` likeliest words to come after ``text``, likeliest first.

    A word is a run of letters, digits and marks (with apostrophes and hyphens inside), after white space unless
    ``text`` ends in none or in punctuation. Its probability is the sum, over the ways to spell it in tokens, of the
    probability of those tokens times that of a token that ends the word. What is no word (punctuation, the end of the
    text) takes the rest. Spellings outside the ``beams`` likeliest are not counted: a probability is a lower bound.

    Raises UserError for a text that fills the model's context.
    """
    if count < 1:
        raise UserError(f"next_words={count}: must be at least 1")
    shown = text.rstrip(" ")  # a space at the end belongs to the next word's first token
    prompt = [*tokenizer.beginning, *tokenizer.encode(shown)]
    if len(prompt) + MAX_TOKENS > model.config.max_positions:
        raise UserError(
            f"prompt: {len(prompt)} tokens; at most {model.config.max_positions - MAX_TOKENS} leave room for a word"
        )
    joined = shown == text and _is_word(shown[-1:])  # then a letter would go on with the text's last word
    must_space = joined or shown != text
    continues = _continuing(tokenizer, model.config.vocab_size)
    return _search(model, tokenizer, prompt, continues, must_space, count, beams)


def _search(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: list[int],
    continues: Tensor,
    must_space: bool,
    count: int,
    beams: int,
) -> list[Word]:
    decoder = decoder_of(model, len(prompt) + MAX_TOKENS, rows=beams)
    with torch.autocast(decoder.device.type, enabled=False):
        tokens, cache = decoder.begin(prompt)
    paths = [_Path(b"", 0.0)]
    found: dict[str, float] = defaultdict(float)
    for _ in range(MAX_TOKENS):
        with torch.autocast(decoder.device.type, enabled=False):
            logps = torch.log_softmax(decoder.step(tokens, cache).float(), dim=-1).cpu()
        ending = logps.exp().masked_fill(continues, 0).sum(-1).tolist()
        for path, share in zip(paths, ending, strict=True):
            if word := _complete(path.spelled):
                found[word] += math.exp(path.logp) * share
        paths, rows, chosen = _extend(paths, logps, tokenizer, must_space, beams, found)
        best = sorted(found.values(), reverse=True)
        if not paths or (len(best) >= count and max(math.exp(p.logp) for p in paths) < best[count - 1]):
            break  # no unfinished word can reach the list any more
        cache.keep(torch.tensor(rows, device=decoder.device))
        tokens = torch.tensor(chosen, device=decoder.device)
    ranked = sorted(found.items(), key=lambda item: -item[1])
    return [Word(word, probability) for word, probability in ranked[:count]]


def _extend(
    paths: list[_Path], logps: Tensor, tokenizer: Tokenizer, must_space: bool, beams: int, found: dict[str, float]
) -> tuple[list[_Path], list[int], list[int]]:
    """The likeliest ways to go on with a word: paths, the row each comes from, its last token."""
    total = logps + torch.tensor([path.logp for path in paths])[:, None]
    wide = min(total.numel(), 8 * beams)  # most of the likeliest tokens end a word and drop out
    values, places = total.flatten().topk(wide)
    new: list[_Path] = []
    rows, tokens = [], []
    control = set(tokenizer.control_tokens.values())
    for value, place in zip(values.tolist(), places.tolist(), strict=True):
        row, token = divmod(place, logps.shape[1])
        piece = tokenizer.token_bytes(token)
        spelled = paths[row].spelled + piece
        if token in control or not piece or (_complete(paths[row].spelled) and not _goes_on(piece)):
            continue  # it ends what was begun: counted already
        state = _state(spelled, must_space)
        if state == "open" and len(new) < beams:
            new.append(_Path(spelled, value))
            rows.append(row)
            tokens.append(token)
        elif state == "complete":  # one token that spells a word and what follows it
            found[_first_word(spelled.decode(errors="ignore").lstrip())] += math.exp(value)
    return new, rows, tokens


def _is_word(character: str) -> bool:
    return bool(character) and (unicodedata.category(character)[0] in "LNM" or character == "_")


def _decoded(spelled: bytes) -> tuple[str, bool] | None:
    """The whole characters, and whether there is nothing but them; None for what is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(spelled)
    except UnicodeDecodeError:
        return None
    return text, not decoder.getstate()[0]


def _complete(spelled: bytes) -> str:
    """The word that a path holds if it ends with a whole character, else nothing."""
    decoded = _decoded(spelled)
    return decoded[0].strip() if decoded is not None and decoded[1] else ""


def _goes_on(token: bytes) -> bool:
    """Whether a token may continue a word: a letter, a part of a character, or an apostrophe with a letter behind."""
    if not token:
        return False
    text = token.decode("utf-8", errors="ignore")
    if not text or not token.startswith(text[:1].encode()):
        return True  # a part of a character
    return _is_word(text[0]) or (text[0] in "'’-" and _is_word(text[1:2]))


def _continuing(tokenizer: Tokenizer, rows: int) -> Tensor:
    """(V,) bool: the tokens that continue a word."""
    control = set(tokenizer.control_tokens.values())
    return torch.tensor([i not in control and _goes_on(tokenizer.token_bytes(i)) for i in range(rows)])


def _state(spelled: bytes, must_space: bool) -> str:
    """``open``: white space and part of a word; ``complete``: a word and something behind it; ``none``: no word."""
    decoded = _decoded(spelled)
    if decoded is None:
        return "none"
    text, body = decoded[0], decoded[0].lstrip()
    if must_space and not text[:1].isspace():
        return "none"
    if not body:
        return "open"
    word = _first_word(body)
    return "none" if not word else "open" if word == body else "complete"


def _first_word(body: str) -> str:
    end = 0
    while end < len(body) and (
        _is_word(body[end]) or (end and body[end] in "'’-" and _is_word(body[end + 1 : end + 2]))
    ):
        end += 1
    return body[:end]
