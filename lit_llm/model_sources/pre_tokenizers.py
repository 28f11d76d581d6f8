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
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = "|".join((*_WORDS, r"\p{N}", _REST))
GPT4O = "|".join((*(word + r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?" for word in _WORDS), r"\p{N}{1,3}", _REST))


@dataclass(frozen=True)
class Rule:
    """One of llama.cpp's rules. ``pattern`` None: GPT-2's, which ``ByteLevel`` has in itself."""

    pattern: str | None = None
    single_digits: bool = False
    whole_words_first: bool = False  # a piece that is a token is not merged anew (``ignore_merges``)
    adds_bos: bool = False  # where the file does not say
    normalizer: str | None = None  # of the family's own tokenizer; llama.cpp has none
    exact: bool = True  # else llama.cpp cuts some letters beyond ASCII otherwise than the family's own tokenizer

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
    "phi-2": Rule(),
    "olmo": Rule(normalizer="NFC"),  # GPT-NeoX's too
    "mpt": Rule(normalizer="NFC"),
    "smollm": Rule(single_digits=True),
    "starcoder": Rule(single_digits=True),
    "refact": Rule(single_digits=True),  # Granite's
    "command-r": Rule(single_digits=True, normalizer="NFC"),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "stablelm2": Rule(QWEN2),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "pixtral": _LLAMA3,
    "dbrx": Rule(LLAMA3),  # OLMo 2's and Phi-4's
    "smaug-bpe": Rule(LLAMA3),  # SmolLM3's
    "gpt-4o": Rule(GPT4O, exact=False),  # Phi-4-mini's
    "tekken": Rule(TEKKEN, whole_words_first=True, adds_bos=True, exact=False),  # Mistral Nemo's
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
