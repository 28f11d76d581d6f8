"""Quality rules: what a text must be like to be trained on. Each is off unless it, or a set that has it, is asked for.

``gopher`` is Rae et al. 2021 (appendix A.1.1 and table A1), ``c4`` what Raffel et al. 2020 (section 2.2) say of whole
pages. Texts are kept or dropped and never altered, so that C4's rules for lines are not among them. Rules that are
about words between spaces are not asked of scripts that have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import nearest

if TYPE_CHECKING:
    from lit_llm.data.quality.measured_text import MeasuredText

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
KEY = "data.quality"
REASON = "quality_"
"""Before a rule's name: the reason under which its texts are counted."""
_BULLETS = ("-", "*", "•", "‣", "▪", "●", "◦", "·")
_SENTENCE_END = re.compile("[.!?؟۔。！？｡।॥။።][\"'”’»)\\]]*(?:\\s|$)|[。！？｡]")


@dataclass(frozen=True, kw_only=True)
class QualityRules:
    """The limits; None: the rule is off. A word is what stands between spaces, or a character of scripts without."""

    min_words: int | None = None
    max_words: int | None = None
    min_mean_word_length: float | None = None  # characters; of scripts with spaces
    max_mean_word_length: float | None = None
    max_symbol_ratio: float | None = None  # "#" and ellipses to words
    max_bullet_lines: float | None = None  # share of lines that begin with a bullet
    max_ellipsis_lines: float | None = None  # share of lines that end with an ellipsis
    min_alphabetic_words: float | None = None  # share of words with a letter, of any script
    min_stop_words: int | None = None  # different ones of STOP_WORDS; asked of English texts alone
    max_duplicate_lines: float | None = None  # share of lines that an earlier line equals
    max_duplicate_paragraphs: float | None = None
    max_duplicate_line_characters: float | None = None  # their share of all characters
    max_duplicate_paragraph_characters: float | None = None
    max_top_2gram: float | None = None  # share of characters in the most frequent run of two words
    max_top_3gram: float | None = None
    max_top_4gram: float | None = None
    max_repeated_5grams: float | None = None  # share of characters in runs of five words that occur more than once
    max_repeated_6grams: float | None = None
    max_repeated_7grams: float | None = None
    max_repeated_8grams: float | None = None
    max_repeated_9grams: float | None = None
    max_repeated_10grams: float | None = None
    min_sentences: int | None = None
    max_curly_brackets: int | None = None  # "{" in the text, which is code more often than language
    max_placeholders: int | None = None  # places that say "lorem ipsum"


SETS: Mapping[str, Mapping[str, float]] = {
    "gopher": {
        "min_words": 50, "max_words": 100_000, "min_mean_word_length": 3, "max_mean_word_length": 10,
        "max_symbol_ratio": 0.1, "max_bullet_lines": 0.9, "max_ellipsis_lines": 0.3, "min_alphabetic_words": 0.8,
        "min_stop_words": 2, "max_duplicate_lines": 0.30, "max_duplicate_paragraphs": 0.30,
        "max_duplicate_line_characters": 0.20, "max_duplicate_paragraph_characters": 0.20, "max_top_2gram": 0.20,
        "max_top_3gram": 0.18, "max_top_4gram": 0.16, "max_repeated_5grams": 0.15, "max_repeated_6grams": 0.14,
        "max_repeated_7grams": 0.13, "max_repeated_8grams": 0.12, "max_repeated_9grams": 0.11,
        "max_repeated_10grams": 0.10,
    },
    "c4": {"min_sentences": 3, "max_curly_brackets": 0, "max_placeholders": 0},
}  # fmt: skip
NAMES = tuple(field.name for field in fields(QualityRules))
REASONS = tuple(REASON + name for name in NAMES)


def rules(asked: str | Mapping[str, Any] | Sequence[str] | None) -> QualityRules | None:
    """The rules of ``data.quality``: a set, several, or {rule: limit}, with ``set`` for a set that they alter.

    Raises UserError for a set or a rule that is not known, and for a limit that is no number.
    """
    if not asked:
        return None
    if not isinstance(asked, Mapping):
        asked = {"set": asked}
    limits: dict[str, float | None] = {}
    sets = asked.get("set") or ()
    for name in [sets] if isinstance(sets, str) else sets:
        if name not in SETS:
            raise UserError(f"{KEY}={name}: is no set of rules; known are {', '.join(SETS)}")
        limits |= SETS[name]
    for name, limit in asked.items():
        if name == "set":
            continue
        if name not in NAMES:
            near = nearest(str(name), NAMES)
            raise UserError(
                f"{KEY}.{name}: is no rule; {f'did you mean {near}? ' if near else ''}known are {', '.join(NAMES)}"
            )
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 0):
            raise UserError(f"{KEY}.{name}={limit}: a number from 0 is needed, or null to leave the rule out")
        limits[name] = limit
    return QualityRules(**limits)  # type: ignore[arg-type]


def broken(text: str, limits: QualityRules, is_english: Callable[[str], bool]) -> tuple[str, float] | None:
    """The first rule that a text breaks, and what was measured; None: it keeps all of them."""
    from lit_llm.data.quality.measured_text import MeasuredText  # numpy: options are checked without it

    for name, value in _measures(MeasuredText(text, is_english), limits):
        limit = getattr(limits, name)
        if value < limit if name.startswith("min") else value > limit:
            return name, value
    return None


def _measures(of: MeasuredText, limits: QualityRules) -> Iterator[tuple[str, float]]:
    """The rules that are asked for, each with what the text has, the cheap ones first."""
    words, lines = of.words, of.lines
    measures: dict[str, Callable[[], float]] = {
        "min_words": lambda: len(words),
        "max_words": lambda: len(words),
        "max_placeholders": lambda: of.text.lower().count("lorem ipsum"),
        "max_curly_brackets": lambda: of.text.count("{"),
        "max_symbol_ratio": lambda: of.share(sum(map(of.text.count, ("#", "...", "…"))), words),
        "max_bullet_lines": lambda: of.share(sum(line.startswith(_BULLETS) for line in lines), lines),
        "max_ellipsis_lines": lambda: of.share(sum(line.endswith(("...", "…")) for line in lines), lines),
        "min_alphabetic_words": lambda: of.share(of.count(lambda word: any(map(str.isalpha, word))), words),
        "min_sentences": lambda: len(_SENTENCE_END.findall(of.text)),
        "max_duplicate_lines": lambda: of.share(len(of.repeated(lines)), lines),
        "max_duplicate_paragraphs": lambda: of.share(len(of.repeated(of.paragraphs)), of.paragraphs),
        "max_duplicate_line_characters": lambda: sum(map(len, of.repeated(lines))) / max(1, len(of.text)),
        "max_duplicate_paragraph_characters": lambda: sum(map(len, of.repeated(of.paragraphs))) / max(1, len(of.text)),
        **{f"max_top_{n}gram": lambda n=n: of.top(n) for n in (2, 3, 4)},  # type: ignore[misc]
        **{f"max_repeated_{n}grams": lambda n=n: of.repeating(n) for n in range(5, 11)},  # type: ignore[misc]
    }
    if of.spaced:
        mean = of.characters / max(1, len(words))
        measures |= {"min_mean_word_length": lambda: mean, "max_mean_word_length": lambda: mean}
    for name, measure in measures.items():
        if getattr(limits, name) is not None:
            yield name, measure()
    if limits.min_stop_words is not None and of.is_english(of.text):
        yield "min_stop_words", len(STOP_WORDS & {word.strip(".,;:!?()\"'").lower() for word in of.vocabulary})
