"""Which language a text is in: by py3langid where it is installed (the extra ``languages``), else by its script alone.

py3langid (BSD, Lui and Baldwin 2012) tells 140 apart. The script alone tells Arabic from English and not English
from German: then a language stands for all that are written with its letters.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection
from functools import cache
from importlib.util import find_spec
from typing import Any

from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import nearest

log = logging.getLogger(__name__)
UNKNOWN = "und"
"""ISO 639's code for what cannot be told: texts of fewer than ``LEAST`` letters, and those of which nothing is sure."""
EVERY = "all"
"""As ``data.languages``: every language is kept, and counted."""
LEAST = 20  # letters; 7 of scripts without spaces between words, where a letter says as much as three
READ = 5_000  # characters of a text that are looked at
SURE = 0.3  # probability; a sentence of Chinese has often less than a half
_CODE = re.compile(r"[a-z]{2,3}")
_SCRIPTS = {
    "Arab": "ar fa ur ps ug sd ckb", "Cyrl": "ru uk be bg mk sr kk ky mn tg", "Grek": "el", "Hebr": "he yi",
    "Deva": "hi mr ne sa", "Beng": "bn as", "Guru": "pa", "Gujr": "gu", "Orya": "or", "Taml": "ta", "Telu": "te",
    "Knda": "kn", "Mlym": "ml", "Sinh": "si", "Thai": "th", "Laoo": "lo", "Tibt": "dz bo", "Mymr": "my", "Geor": "ka",
    "Hang": "ko", "Ethi": "am ti", "Khmr": "km", "Armn": "hy", "Hani": "zh", "Jpan": "ja",
}  # fmt: skip
SCRIPT_OF = {code: script for script, codes in _SCRIPTS.items() for code in codes.split()}
"""The script (ISO 15924) of each language that is not written in Latin letters."""
_NAMES = {
    "ARABIC": "Arab", "CYRILLIC": "Cyrl", "GREEK": "Grek", "HEBREW": "Hebr", "DEVANAGARI": "Deva", "BENGALI": "Beng",
    "GURMUKHI": "Guru", "GUJARATI": "Gujr", "ORIYA": "Orya", "TAMIL": "Taml", "TELUGU": "Telu", "KANNADA": "Knda",
    "MALAYALAM": "Mlym", "SINHALA": "Sinh", "THAI": "Thai", "LAO": "Laoo", "TIBETAN": "Tibt", "MYANMAR": "Mymr",
    "GEORGIAN": "Geor", "HANGUL": "Hang", "ETHIOPIC": "Ethi", "KHMER": "Khmr", "ARMENIAN": "Armn", "CJK": "Hani",
    "HIRAGANA": "Jpan", "KATAKANA": "Jpan", "LATIN": "Latn", "FULLWIDTH": "Latn",
}  # fmt: skip
"""The first word of a letter's Unicode name, and its script."""
_DENSE = ("Hani", "Jpan", "Thai", "Laoo", "Khmr", "Mymr")


def installed() -> bool:
    """Whether languages are told apart, and not only scripts."""
    return find_spec("py3langid") is not None


def checked(languages: Collection[str], key: str = "data.languages") -> None:
    """Raises UserError for what is no list of ISO 639 codes, such as [en,ar], or [all]."""
    if isinstance(languages, str):
        raise UserError(f"{key}={languages}: a list of codes is needed, such as [en,ar]; [all] keeps and counts all")
    for code in languages:
        if not isinstance(code, str) or not (_CODE.fullmatch(code)):
            near = nearest(str(code).lower()[:2], [*SCRIPT_OF, "en", "de", "fr", "es", "it", "pt", "nl"])
            hint = f"; did you mean {near}?" if near else ""
            raise UserError(f"{key}: {code!r} is no language; codes of ISO 639 are, such as en, ar, zh{hint}")


def script(text: str) -> str:
    """The script (ISO 15924) of most of a text's letters; ``UNKNOWN`` for too few of them."""
    counts = Counter(map(_script_of, text[:READ]))
    del counts[""]
    if counts["Jpan"] * 10 >= counts["Hani"] > 0:  # Japanese mixes its syllables with ideographs
        counts["Jpan"] += counts.pop("Hani")
    if not counts:
        return UNKNOWN
    (most, number), *_ = counts.most_common(1)
    return most if number >= (LEAST // 3 if most in _DENSE else LEAST) else UNKNOWN


def language(text: str) -> str:
    """The code of a text's language (ISO 639), or, where only scripts are told apart, of its script."""
    found = script(text)
    identify = _identifier()
    if found == UNKNOWN or identify is None:
        return found
    code, probability = identify(text[:READ])
    return str(code) if probability >= SURE else UNKNOWN


def wanted(found: str, languages: Collection[str]) -> bool:
    """Whether ``found``, of ``language``, is one to keep. What cannot be told is kept."""
    if found == UNKNOWN or EVERY in languages or not languages:
        return True
    return found in languages or found in {SCRIPT_OF.get(code, "Latn") for code in languages}


@cache
def tell_if_by_script() -> None:
    """Says once that languages of one script are not told apart."""
    if not installed():
        log.warning(
            "data.languages: texts are told apart by their script alone, so that English and German are one; "
            'pip install -e ".[languages]" tells 140 languages apart'
        )


@cache
def _identifier() -> Callable[[str], tuple[str, float]] | None:
    if not installed():
        return None
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    made: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return made.classify  # type: ignore[no-any-return]


@cache
def _script_of(character: str) -> str:
    """The script of a letter; "" for what is none, or of a script that no language here has."""
    if character.isascii():
        return "Latn" if character.isalpha() else ""
    if unicodedata.category(character)[0] != "L":
        return ""
    return _NAMES.get(unicodedata.name(character, "").split(" ")[0].split("-")[0], "Zyyy")
