"""How llama.cpp cuts a text before byte-pair encoding: its names for the rules, and the same rules in tokenizers.

GGUF names a rule (``tokenizer.ggml.pre``) and holds none; llama.cpp has them in its source (src/llama-vocab.cpp). The
export's certificate holds each against llama.cpp itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@dataclass(frozen=True)
class Rule:
    """One of llama.cpp's rules. ``pattern`` None: GPT-2's, which ``ByteLevel`` has in itself."""

    pattern: str | None = None
    single_digits: bool = False
    whole_words_first: bool = False  # a piece that is a token is not merged anew (``ignore_merges``)
    adds_bos: bool = False  # where the file does not say
    normalizer: str | None = None  # of the family's own tokenizer; llama.cpp has none

    def steps(self) -> list[dict[str, Any]]:
        """The pre-tokenizer's steps, as in tokenizer.json."""
        if self.pattern is not None:
            cut = {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False}
            return [cut, _byte_level(use_regex=False)]
        digits = [{"type": "Digits", "individual_digits": True}] if self.single_digits else []
        return [*digits, _byte_level(use_regex=True)]


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


_LLAMA3 = Rule(LLAMA3, whole_words_first=True, adds_bos=True)
_QWEN2 = Rule(QWEN2, normalizer="NFC")
RULES: Mapping[str, Rule] = {
    "gpt-2": Rule(),
    "smollm": Rule(single_digits=True),
    "starcoder": Rule(single_digits=True),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}


def name_of(pre_tokenizer: Mapping[str, Any] | None, whole_words_first: bool) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a tokenizer.json; None where it has no such rule."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else [])
    plain = [_plain(step) for step in steps]
    fits = [name for name, rule in RULES.items() if [_plain(step) for step in rule.steps()] == plain]
    # Where no piece is looked up whole and the merges give the same, either name will do: the certificate tells.
    same = [name for name in fits if RULES[name].whole_words_first == whole_words_first]
    return next(iter([*same, *fits]), None)


def _plain(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step as far as it decides the pieces."""
    return {key: value for key, value in step.items() if key != "trim_offsets"}
