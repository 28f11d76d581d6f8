"""The bytes that a token stands for."""

from __future__ import annotations

import json
import re

from tokenizers import Tokenizer as Engine


class TokenBytes:
    """Of an engine as it is: one that has learned more tokens wants another."""

    def __init__(self, engine: Engine, byte_level: bool) -> None:
        self._engine, self._byte_level = engine, byte_level
        self._added = {i: t.content for i, t in engine.get_added_tokens_decoder().items()}
        self._known: dict[int, bytes] = {}

    def of(self, token_id: int) -> bytes:
        """A part of a character, perhaps; b"" for a row of an embedding beyond the vocabulary."""
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._look_up(token_id)
        return found

    def _look_up(self, token_id: int) -> bytes:
        added = self._added.get(token_id)
        if added is not None:
            return added.encode()
        token = self._engine.id_to_token(token_id)
        if token is None:
            return b""
        if self._byte_level:
            return bytes(_BYTE_OF[c] for c in token)
        if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
            return bytes([int(token[3:5], 16)])
        return str(token).replace("▁", " ").encode()


def is_byte_level(engine: Engine) -> bool:
    """Whether a token is a string of bytes, and a text's bytes are those of its tokens."""
    decoder = json.loads(engine.to_str()).get("decoder") or {}
    return "ByteLevel" in {decoder.get("type"), *(d.get("type") for d in decoder.get("decoders", []))}


def _byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, the other way round."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in set(visible)]
    return {chr(b): b for b in visible} | {chr(256 + n): b for n, b in enumerate(hidden)}


_BYTE_OF = _byte_characters()
