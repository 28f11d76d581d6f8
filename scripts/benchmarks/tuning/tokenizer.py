"""The tokenizer that a file of data is read with when a benchmark is pointed to it: one trained on its lines."""

from __future__ import annotations

from pathlib import Path

from lit_llm.errors import UserError
from lit_llm.text.bpe import train_bpe
from lit_llm.text.tokenizer import Tokenizer


def own_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """Raises UserError where the file cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"path={path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"path={path}: is no text in UTF-8 (byte {error.start})") from None
    return train_bpe(lines, vocab_size, show_progress=False)
