"""A tokenizer as the entries of a GGUF file's head, refused where llama.cpp would cut texts otherwise."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from lit_llm.errors import UserError
from lit_llm.model_sources.gguf_tokenizer import (
    BLANK,
    BYTE,
    CONTROL,
    NORMAL,
    NORMALIZER,
    PHI3_NAME,
    PHI3_NEEDED,
    PHI3_PLAIN,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from lit_llm.model_sources.pre_tokenizers import RULES, name_of
from lit_llm.text.tokenizer import Tokenizer

_ELSE = "export with to=huggingface"


def tokenizer_metadata(tokenizer: Tokenizer, rows: int, where: str) -> dict[str, Any]:
    """What llama.cpp makes its tokenizer from, for an embedding of so many ``rows``; rows without a token are unused
    tokens. ``where`` begins what is said of a tokenizer that it has no form for (UserError)."""
    rules = json.loads(tokenizer.engine.to_str())
    model = rules["model"]
    tokens, kinds = _vocabulary(tokenizer, rows, where)
    if model["type"] == "BPE" and tokenizer.byte_level:
        own = _byte_pairs(rules, where)
    elif model["type"] == "BPE" and model.get("byte_fallback"):
        own = _sentencepiece(rules, tokens, kinds, where)
    else:
        raise UserError(
            f"{where}: its tokenizer is {model['type']}; GGUF has BPE over bytes or as SentencePiece; {_ELSE}"
        )
    return {
        **own,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        **_ends(tokenizer, where),
        "tokenizer.chat_template": tokenizer.chat.source,
    }


def _byte_pairs(rules: Mapping[str, Any], where: str) -> dict[str, Any]:
    model, normalizer = rules["model"], rules["normalizer"]
    name = name_of(rules["pre_tokenizer"], bool(model.get("ignore_merges")))
    if name is None:
        raise UserError(
            f"{where}: cuts texts by a pre-tokenizer that llama.cpp has no name for (it has {', '.join(RULES)}); "
            f"{_ELSE}"
        )
    if not model["merges"]:
        raise UserError(f"{where}: its tokenizer has no merges, without which llama.cpp reads no BPE; {_ELSE}")
    if normalizer is not None and normalizer["type"] != "NFC":
        raise UserError(f"{where}: its normalizer {normalizer['type']} is unknown to llama.cpp; {_ELSE}")
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in _pairs(model)],
        NORMALIZER: "none" if normalizer is None else "NFC",
    }


def _pairs(model: Mapping[str, Any]) -> list[list[str]]:
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]


def _sentencepiece(rules: Mapping[str, Any], tokens: list[str], kinds: list[int], where: str) -> dict[str, Any]:
    """Scores that give the order of the merges, and the kinds of bytes and of the unknown token (in ``kinds``)."""
    blank = _blank_before(rules)
    if blank is None:
        raise UserError(f"{where}: prepares its texts otherwise than SentencePiece, which llama.cpp cannot; {_ELSE}")
    scores = [0.0 if kind != NORMAL else -1e6 for kind in kinds]
    places = {token: n for n, token in enumerate(tokens)}
    for rank, pair in reversed(list(enumerate(_pairs(rules["model"])))):
        scores[places["".join(pair)]] = -float(rank)
    for n, token in enumerate(tokens):
        if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            kinds[n], scores[n] = BYTE, 0.0
    if (unknown := places.get(rules["model"].get("unk_token"))) is not None:
        kinds[unknown] = UNKNOWN
    found: dict[str, Any] = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
    found |= {"tokenizer.ggml.scores": scores, "tokenizer.ggml.add_space_prefix": blank}
    return found if unknown is None else found | {"tokenizer.ggml.unknown_token_id": unknown}


def _blank_before(rules: Mapping[str, Any]) -> bool | None:
    """Whether a text gets a blank before it; None where more is done to it than that blanks become ``BLANK``."""
    normalizer, cut = rules["normalizer"] or {}, rules["pre_tokenizer"]
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    if cut is None and steps in ([replace], [{"type": "Prepend", "prepend": BLANK}, replace]):
        return len(steps) == 2
    if not steps and cut is not None and cut["type"] == "Metaspace" and cut["replacement"] == BLANK:
        return None if cut.get("split", True) else cut.get("prepend_scheme", "always") != "never"
    return None


def _vocabulary(tokenizer: Tokenizer, rows: int, where: str) -> tuple[list[str], list[int]]:
    known = tokenizer.engine.get_vocab(with_added_tokens=True)
    tokens, kinds = [_unused(n, known) for n in range(rows)], [UNUSED] * rows
    for token, n in known.items():
        tokens[n], kinds[n] = token, NORMAL
    by_name = takes_blanks(tokenizer)
    for n, added in tokenizer.engine.get_added_tokens_decoder().items():
        if not added.special and (added.single_word or added.lstrip or (added.rstrip and not by_name)):
            raise UserError(
                f"{where}: the word {added.content!r} is a token only where it stands alone, and llama.cpp takes it "
                f"inside other words too; {_ELSE}"
            )
        tokens[n], kinds[n] = added.content, CONTROL if added.special else USER_DEFINED
    return tokens, kinds


def takes_blanks(tokenizer: Tokenizer) -> bool:
    """Whether its tokens take the blanks behind them as Phi-3's do, all but three."""
    added = {one.content: one for one in tokenizer.engine.get_added_tokens_decoder().values()}
    there = all(tokenizer.id_of(token) is not None for token in PHI3_NEEDED)
    return there and all(one.rstrip == (name not in PHI3_PLAIN) and not one.lstrip for name, one in added.items())


def name_for(name: str, tokenizer: Tokenizer) -> str:
    """What ``general.name`` says: llama.cpp takes a model with Phi-3 in its name for one whose tokens take the blanks
    behind them, and no other."""
    if takes_blanks(tokenizer):
        return name if PHI3_NAME.search(name) else f"{name}-phi-3"
    return PHI3_NAME.sub(r"\1_3", name)


def _unused(row: int, known: Collection[str]) -> str:
    """A name for a row without a token, which no token has: llama.cpp ends over a name that comes twice."""
    name = f"[PAD{row}]"
    while name in known:
        name = f"[{name}]"
    return name


def _ends(tokenizer: Tokenizer, where: str) -> dict[str, Any]:
    """The ids of the ends. Where nothing is named the beginning is what documents end with, and is put before none."""
    added = tokenizer.engine.encode("x", add_special_tokens=True).ids
    plain = tokenizer.engine.encode("x", add_special_tokens=False).ids
    first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.document_end_id
    before = added[: len(added) - len(plain)] if added[len(added) - len(plain) :] == plain else None
    behind = added[len(plain) :] if before is None and added[: len(plain)] == plain else []
    last = tokenizer.id_of(tokenizer.eos_token)
    if before is None and behind != [last]:
        raise UserError(f"{where}: what its tokenizer puts around a text has no form in GGUF; {_ELSE}")
    if before not in (None, [], [first]):
        raise UserError(f"{where}: its tokenizer puts more than bos_token before a text; {_ELSE}")
    found: dict[str, Any] = {
        "tokenizer.ggml.bos_token_id": first,
        "tokenizer.ggml.eos_token_id": last,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_id,
        "tokenizer.ggml.add_bos_token": before == [first],
        "tokenizer.ggml.add_eos_token": bool(behind),
    }
    return found if tokenizer.turn_end_id == last else found | {"tokenizer.ggml.eot_token_id": tokenizer.turn_end_id}
