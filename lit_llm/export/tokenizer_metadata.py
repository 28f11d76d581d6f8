"""A tokenizer as the entries of a GGUF file's head, refused where llama.cpp would cut texts otherwise."""

from __future__ import annotations

import json
from typing import Any

from lit_llm.errors import UserError
from lit_llm.model_sources.gguf_tokenizer import CONTROL, NORMAL, NORMALIZER, UNUSED, USER_DEFINED
from lit_llm.model_sources.pre_tokenizers import RULES, name_of
from lit_llm.text.tokenizer import Tokenizer

_ANYTHING_ELSE = "export with to=huggingface"


def tokenizer_metadata(tokenizer: Tokenizer, rows: int, where: str) -> dict[str, Any]:
    """What llama.cpp makes its tokenizer from, for an embedding of so many ``rows``; rows without a token are unused
    tokens. ``where`` begins what is said of a tokenizer that it has no form for (UserError)."""
    rules = json.loads(tokenizer.engine.to_str())
    model = rules["model"]
    if model["type"] != "BPE" or not tokenizer.byte_level or model.get("byte_fallback"):
        kind = f"{model['type']} over bytes" if tokenizer.byte_level else str(model["type"])
        raise UserError(f"{where}: its tokenizer is {kind}; only byte-level BPE is written into GGUF; {_ANYTHING_ELSE}")
    name = name_of(rules["pre_tokenizer"], bool(model.get("ignore_merges")))
    if name is None:
        raise UserError(
            f"{where}: cuts texts by a pre-tokenizer that llama.cpp has no name for (it has {', '.join(RULES)}); "
            f"{_ANYTHING_ELSE}"
        )
    normalizer = rules["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        raise UserError(f"{where}: its normalizer {normalizer['type']} is unknown to llama.cpp; {_ANYTHING_ELSE}")
    tokens, kinds = _vocabulary(tokenizer, rows, where)
    template = without_marks(tokenizer.chat.source)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]],
        **_ends(tokenizer, where),
        "tokenizer.chat_template": template,
        NORMALIZER: "none" if normalizer is None else "NFC",
    }


def _vocabulary(tokenizer: Tokenizer, rows: int, where: str) -> tuple[list[str], list[int]]:
    tokens, kinds = [f"[PAD{n}]" for n in range(rows)], [UNUSED] * rows
    for token, n in tokenizer.engine.get_vocab(with_added_tokens=True).items():
        tokens[n], kinds[n] = token, NORMAL
    for n, added in tokenizer.engine.get_added_tokens_decoder().items():
        if not added.special and (added.single_word or added.lstrip or added.rstrip):
            raise UserError(
                f"{where}: the word {added.content!r} is a token only where it stands alone, and llama.cpp takes it "
                f"inside other words too; {_ANYTHING_ELSE}"
            )
        tokens[n], kinds[n] = added.content, CONTROL if added.special else USER_DEFINED
    return tokens, kinds


def _ends(tokenizer: Tokenizer, where: str) -> dict[str, Any]:
    """The ids of the ends. Where nothing is named the beginning is what documents end with, and is put before none."""
    added = tokenizer.engine.encode("x", add_special_tokens=True).ids
    plain = tokenizer.engine.encode("x", add_special_tokens=False).ids
    first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.document_end_id
    before = added[: len(added) - len(plain)] if added[len(added) - len(plain) :] == plain else None
    behind = added[len(plain) :] if before is None and added[: len(plain)] == plain else []
    last = tokenizer.id_of(tokenizer.eos_token)
    if before is None and behind != [last]:
        raise UserError(f"{where}: what its tokenizer puts around a text has no form in GGUF; {_ANYTHING_ELSE}")
    if before not in (None, [], [first]):
        raise UserError(f"{where}: its tokenizer puts more than bos_token before a text; {_ANYTHING_ELSE}")
    found: dict[str, Any] = {
        "tokenizer.ggml.bos_token_id": first,
        "tokenizer.ggml.eos_token_id": last,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_id,
        "tokenizer.ggml.add_bos_token": before == [first],
        "tokenizer.ggml.add_eos_token": bool(behind),
    }
    return found if tokenizer.turn_end_id == last else found | {"tokenizer.ggml.eot_token_id": tokenizer.turn_end_id}


def without_marks(template: str) -> str:
    """A chat template without ``{% generation %}``, which no engine but transformers knows; it writes the same.

    A block that is always taken stands in its place: blanks are cut around it as they were.
    """
    import re

    begun = re.sub(r"\{%([-+]?)\s*generation\s*([-+]?)%\}", r"{%\1 if true \2%}", template)
    return re.sub(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}", r"{%\1 endif \2%}", begun)
