"""New whole words for a vocabulary that is there: the pieces that stand for them, and the engine that knows these."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Tokenizer as Engine
from tokenizers import models

REBUILT = ("qwen2",)
"""Families whose tokenizer transformers' AutoTokenizer makes anew from vocabulary and merges, whatever class the folder
names (``MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS``): an entry without merges is lost, an added token is not."""


def whole_pieces(engine: Engine, word: str) -> tuple[str, ...]:
    """The word without and with a space before it, as a byte-level BPE spells them; () where it is cut, or no BPE."""
    if not isinstance(engine.model, models.BPE) or engine.pre_tokenizer is None:
        return ()
    found = []
    for text in (word, f" {word}"):
        text = engine.normalizer.normalize_str(text) if engine.normalizer is not None else text
        found.append([piece for piece, _ in engine.pre_tokenizer.pre_tokenize_str(text)])
    return () if any(len(one) != 1 for one in found) else (found[0][0], found[1][0])


def with_pieces(engine: Engine, pieces: Sequence[str]) -> Engine:
    """The engine with these entries in its BPE's vocabulary: itself where it has them all.

    They have no merges: a whole piece is looked up before any merge is made.
    """
    known = engine.get_vocab(with_added_tokens=True)
    if not (new := [piece for piece in dict.fromkeys(pieces) if piece not in known]):
        return engine
    return with_entries(engine, new)


def with_entries(engine: Engine, tokens: Sequence[str], merges: Sequence[tuple[str, str]] | None = None) -> Engine:
    """The engine with new tokens behind its largest id, and these merges behind its own; None: whole pieces are looked
    up before any merge is made.

    Added tokens join the vocabulary too, since the library counts their ids on from it when it reads the file.
    """
    state = json.loads(engine.to_str())
    known = state["model"]["vocab"] | {token["content"]: token["id"] for token in state["added_tokens"]}
    start = max(known.values()) + 1
    state["model"]["vocab"] = known | {token: start + n for n, token in enumerate(tokens)}
    if merges is None:
        state["model"]["ignore_merges"] = True
    else:
        state["model"]["merges"] += [list(pair) for pair in merges]
    extended = Engine.from_str(json.dumps(state))
    extended.encode_special_tokens = True
    return extended
