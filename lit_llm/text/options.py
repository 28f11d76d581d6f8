"""The options of tokenizers: what stands below ``tokenizer.`` in a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from lit_llm.errors import UserError
from lit_llm.runtime.options import Options
from lit_llm.runtime.ranges import SOME, Range
from lit_llm.text.control_tokens import SPECIALS


@dataclass(frozen=True, kw_only=True)
class TrainBPEOptions(Options):
    """A byte-level BPE learned from the run's own text."""

    TARGET: ClassVar[str] = "lit_llm.text.bpe.train_bpe"
    GROUP: ClassVar[str] = "tokenizer"
    GIVEN: ClassVar[tuple[str, ...]] = ("texts",)
    RANGES: ClassVar[Mapping[str, Range]] = {
        "vocab_size": Range(1, 2**31 - 1), "min_frequency": SOME, "max_token_length": SOME,
    }  # fmt: skip

    vocab_size: int = 4096  # ids in all: 3 control tokens, 256 bytes, merges; fewer come out when the text is small
    min_frequency: int = 2  # merges seen less often are not made
    max_token_length: int = 32  # longest token in bytes, so that rules of dashes do not fill the vocabulary
    show_progress: bool = True  # bars on stderr

    def check(self) -> None:
        super().check()
        least = len(SPECIALS) + 256
        if self.vocab_size < least:
            raise UserError(
                f"tokenizer.vocab_size={self.vocab_size}: 256 bytes and {len(SPECIALS)} control tokens need {least}"
            )


@dataclass(frozen=True, kw_only=True)
class LoadTokenizerOptions(Options):
    """A tokenizer that is there already."""

    TARGET: ClassVar[str] = "lit_llm.text.tokenizer.load_tokenizer"
    GROUP: ClassVar[str] = "tokenizer"

    folder: str  # a model folder, or any folder with tokenizer.json
