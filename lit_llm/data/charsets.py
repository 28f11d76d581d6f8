"""Which encoding a text is in, where nobody says: UTF-8 first, strictly; then marks, UTF-16, and single-byte pages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

AUTO = "auto"
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
)  # fmt: skip
# What the web calls by these names is its superset (WHATWG Encoding Standard, section 4.2).
_WEB = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "latin1": "cp1252", "us-ascii": "cp1252", "ascii": "cp1252",
        "iso-8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "shift-jis": "cp932",
        "ks_c_5601-1987": "cp949", "euc-kr": "cp949", "unicode": "utf-8", "utf-16": "utf-8", "tis-620": "cp874",
        "iso-8859-11": "cp874", "x-sjis": "cp932", "windows-874": "cp874", "utf8": "utf-8",
        "big5": "big5hkscs"}  # fmt: skip
_SAMPLE = 64 * 2**10  # bytes that are looked at, of those around what is no ASCII
_SINGLE = ["cp1252", "cp1256", "cp1251", "cp1250", "cp1253", "cp1254", "cp1255", "cp1257", "koi8_r",
           "iso8859_6", "cp866", "cp874", "iso8859_2", "cp1258", "cp850"]  # fmt: skip
_DOUBLE = ["cp932", "euc_jp", "gb18030", "big5hkscs", "cp949", "iso2022_jp"]
_WORD = re.compile(rb"[A-Za-z\x80-\xff]+")
_ASCII_LETTER = re.compile(rb"[A-Za-z]")
_SYMBOLS = bytes(one for one in range(0x80, 0x100) if not (bytes((one,)).decode("cp1252", "ignore") or "x").isalpha())
"""Bytes that are no letters in cp1252: pounds, paragraphs, degrees, quotation marks."""
_HIGH = bytes(range(0x80, 0x100))
_HIGH_IN_WORD = re.compile(rb"[A-Za-z][\x80-\xff](?=[A-Za-z])")
# Between two letters: apostrophe, dashes, points, soft hyphen; other symbols never are.
_SYMBOL_IN_WORD = re.compile(
    rb"[A-Za-z][\x80-\x82\x84\x86-\x89\x8b\x93\x94\x98\x99\x9b\xa1-\xa9\xab\xac\xae-\xb3\xb5\xb6\xb8\xb9\xbb-\xbf]"
    rb"(?=[A-Za-z])"
)
_DOS_IN_WORD = re.compile(rb"[A-Za-z][\x81-\x84\x87-\x8a\x94](?=[a-z])")
"""The commonest letters of the pages of DOS (ü é â ä ç ê ë è ö), which in Windows' pages stand in no word."""
_DOUBLE_LETTER = re.compile("[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]")
_ODD = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


class Decoded(NamedTuple):
    """A text, and the encoding that was guessed or declared; "" where it is what the run says, or UTF-8."""

    text: str
    encoding: str = ""


def decoded(data: bytes | bytearray, encoding: str, declared: str | None = None) -> Decoded:
    """The text of a file.

    Args:
        encoding: a name, which then holds, or ``auto``.
        declared: what the file itself says; it holds before ``encoding``, unless its bytes are UTF-8.

    Raises UnicodeDecodeError: a name is given and does not fit, or none is found.
    """
    for mark, name in _MARKS if encoding == AUTO or declared else ():
        if data.startswith(mark):
            try:
                return Decoded(data.decode(name).removeprefix("\ufeff"), "" if name == "utf-8" else name)
            except UnicodeDecodeError:
                break
    if declared is not None and not _is_utf8(data):
        name = _WEB.get(declared.lower(), declared)
        try:
            return Decoded(data.decode(name), name.lower())
        except (UnicodeDecodeError, LookupError):
            pass
    elif declared is not None:
        return Decoded(data.decode("utf-8").removeprefix("\ufeff"))
    if encoding != AUTO:
        return Decoded(data.decode(encoding).removeprefix("\ufeff"))
    if (wide := _wide(data)) is not None:
        return Decoded(data.decode(wide), wide)
    try:
        return Decoded(data.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError:
        guessed = _guessed(data)
        if guessed is None:
            raise
    return Decoded(data.decode(guessed), guessed)


def wide(data: bytes) -> str | None:
    """The encoding of a file by its first bytes, where that has other bytes for a line's end than ASCII; else None."""
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    return _wide(data[: len(data) // 2 * 2]) if marked is None else marked if marked != "utf-8" else None


def code_page(lines: Iterable[bytes]) -> str | None:
    """The code page of a file that is no UTF-8, by its lines beyond ASCII; None: it cannot be told."""
    told, size = [], 0
    for line in lines:
        if size > _SAMPLE:
            break
        if not line.isascii():
            told.append(line)
            size += len(line)
    return _guessed(b"\n".join(told))


def _is_utf8(data: bytes | bytearray) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _wide(data: bytes | bytearray) -> str | None:
    """UTF-16 without its mark: blanks and line ends have a NUL, always on the same side, and no text has one else."""
    nul = data.count(0)
    if not nul or nul * 100 < len(data) or len(data) % 2:
        return None
    behind = data[1::2].count(0)
    name = "utf-16-le" if behind >= 0.95 * nul else "utf-16-be" if behind <= 0.05 * nul else None
    if name is None:
        return None
    try:
        text = data.decode(name)
    except UnicodeDecodeError:
        return None
    return None if len(_ODD.findall(text)) * 100 > len(text) else name


def _guessed(data: bytes | bytearray) -> str | None:
    """The code page of a text that is no UTF-8, or None where it is UTF-8 with damaged places, or no text."""
    whole = data.decode("utf-8", "replace")
    bad = whole.count("\ufffd")
    if sum(1 for letter in whole if letter > "\x7f" and letter != "\ufffd") > 4 * bad or b"\0" in data:
        return None
    sample = _around(bytes(data))
    if _only_symbols(sample) and _fits(data, sample, "cp1252"):
        return "cp1252"
    fits = [name for name in (*_SINGLE, *_DOUBLE) if _fits(data, sample, name)]
    dos = 2 * len(_DOS_IN_WORD.findall(sample)) > len(_HIGH_IN_WORD.findall(sample))
    if dos and "cp850" in fits and _ascii_as_a_rule(sample):
        return "cp850"
    fits = [name for name in fits if name != "cp850"]  # every text fits it
    if not fits:
        return None
    return _latin(sample, fits) if _is_latin(sample) else _by_letters(sample, fits)


def _only_symbols(sample: bytes) -> bool:
    """Whether a text is ASCII, as English is, with some of cp1252's symbols: none of its letters, and not in words."""
    letters = sample.translate(None, bytes(range(0x80)) + _SYMBOLS)
    return not letters and _ascii_as_a_rule(sample) and not _SYMBOL_IN_WORD.search(sample)


def _ascii_as_a_rule(sample: bytes) -> bool:
    return len(sample.translate(None, _HIGH)) > 0.7 * len(sample)


def _is_latin(sample: bytes) -> bool:
    """Whether the letters beyond ASCII stand in words with ASCII ones, which only scripts like Latin do."""
    words = [word for word in _WORD.findall(sample) if word.translate(None, bytes(range(0x80)) + _SYMBOLS)]
    if not words:
        return _ascii_as_a_rule(sample)
    mixed = sum(1 for word in words if _ASCII_LETTER.search(word))
    size = sum(map(len, words))
    high = sum(1 for word in words for letter in word if letter > 0x7F)
    return mixed > 0.5 * len(words) and high < 0.6 * size


def _around(data: bytes) -> bytes:
    """What is around the bytes beyond ASCII, from all over the text."""
    if len(data) <= _SAMPLE:
        return data
    pieces, size = [], 0
    for found in re.finditer(rb"[^\n]{0,200}[\x80-\xff][^\n]{0,200}", data):
        pieces.append(found[0])
        size += len(found[0])
        if size > _SAMPLE:
            break
    return b"\n".join(pieces)


def _fits(data: bytes | bytearray, sample: bytes, name: str) -> bool:
    try:
        text = data.decode(name)
    except UnicodeDecodeError:
        return False
    if name in _DOUBLE and not _double_letters(text):
        return False
    return not _ODD.search(sample.decode(name, "replace") if len(text) > _SAMPLE else text)


def _double_letters(text: str) -> bool:
    """Whether what is beyond ASCII is kana, hanzi or hangul as a rule, and not half-width forms and signs."""
    beyond = [letter for letter in text[:_SAMPLE] if letter > "\x7f"] or [one for one in text if one > "\x7f"]
    return 2 * sum(1 for letter in beyond if _DOUBLE_LETTER.match(letter)) > len(beyond)


def _latin(sample: bytes, fits: list[str]) -> str:
    """The code page whose letters beyond ASCII are those of one language; the first of equals."""
    found, best = "cp1252" if "cp1252" in fits else fits[0], float("-inf")
    for name, languages in _LATIN.items():
        if name in fits:
            letters = [letter for letter in sample.decode(name, "replace").lower() if letter > "\x7f"]
            letters = [letter for letter in letters if letter not in _PUNCTUATION]
            for own in languages:
                inside = sum(1 for letter in letters if letter in own)
                if 2 * inside - len(letters) > best:
                    found, best = name, 2 * inside - len(letters)
    return found


def _by_letters(sample: bytes, fits: list[str]) -> str | None:
    """What charset-normalizer finds; else the page in which most letters beyond ASCII are a language's commonest."""
    try:
        from charset_normalizer import from_bytes

        match = from_bytes(sample, cp_isolation=fits).best()
        if match is not None:
            return match.encoding
    except ImportError:  # texts can be read without the extra
        pass
    found, best = None, 0.4
    for name, common in _OTHER:
        if name in fits:
            letters = [
                one for one in sample.decode(name, "replace").lower() if one > "\x7f" and one not in _PUNCTUATION
            ]
            share = sum(1 for letter in letters if letter in common) / max(len(letters), 1)
            if share > best:
                found, best = name, share
    return found


_PUNCTUATION = frozenset("½¼¾±×÷¥¢¦¬¯¤†‡‰¶˜\xa0\xad„“”‚‘’‹›«»–—…•°§©®™€£·´¿¡،؛؟\u200c\u200d\u200e\u200f№")
_WEST = ("äöüß", "éèàêçâîôûùëïœ", "áéíóúñü", "áâãàçéêíóôõú", "àèéìòù", "åäöæøé", "éëïöü", "áéíóúýþæöð", "àçéèíïóòúü")
_CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áčďéíľĺňóôŕšťúýžä", "áéíóöőúüű", "ăâîşţ", "čćđšž")
_LATIN = {
    "cp1252": _WEST,
    "cp1250": _CENTRAL,
    "iso8859_2": _CENTRAL,
    "cp1254": ("çğıöşüâi̇",),
    "cp1257": ("āčēģīķļņšūž", "ąčęėįšųūž", "äöüõšž"),
}
"""By code page, the letters beyond ASCII of the languages that are written in it."""
_RUSSIAN, _UKRAINIAN = "оеаинтсрвлкмдп", "оаиніервтлкуд"
_OTHER = (
    ("cp1256", "اليمنوترةبعد"), ("iso8859_6", "اليمنوترةبعد"), ("cp1256", "ایرندهمتوبسک"),
    *((name, own) for name in ("cp1251", "koi8_r", "cp866") for own in (_RUSSIAN, _UKRAINIAN)),
    ("cp1253", "αοιετσνηυρπκάέίόής"), ("cp1255", "יוהלארתבשמןנ"), ("cp874", "านรอกเงมยวลดท"),
)  # fmt: skip
"""By code page, the commonest letters of a language: they make up about two thirds of its texts."""
