"""The interface in several languages: one JSON catalogue each, English being complete by definition."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "languages"
DEFAULT = "en"
RIGHT_TO_LEFT = {"ar", "fa", "he", "ur"}


@dataclass(frozen=True, slots=True)
class Language:
    """A catalogue: ``code`` is the HTML ``lang``, ``direction`` its ``dir``, ``name`` its own name for itself."""

    code: str
    words: dict[str, str]

    @property
    def direction(self) -> str:
        return "rtl" if self.code in RIGHT_TO_LEFT else "ltr"

    @property
    def name(self) -> str:
        return self.words["language.name"]

    def say(self, key: str, **values: object) -> str:
        """The sentence of a key with its ``{places}`` filled. Raises KeyError for a key that English lacks."""
        sentence = self.words.get(key) or languages()[DEFAULT].words[key]
        # Not str.format: a catalogue is data, and format strings can reach into objects.
        return re.sub(r"\{(\w+)\}", lambda place: str(values.get(place[1], place[0])), sentence)

    def flag(self, kind: str) -> str:
        """The label of a flag kind; a kind that the catalogue does not know is shown by its own name."""
        return self.words.get(f"flag.{kind}") or kind.replace("_", " ")

    def flag_meaning(self, kind: str) -> str:
        return self.words.get(f"meaning.{kind}", "")

    def part(self, prefix: str) -> dict[str, str]:
        """All sentences below a prefix, without it: what the script needs."""
        english = languages()[DEFAULT].words
        return {key[len(prefix) :]: self.say(key) for key in english if key.startswith(prefix)}


@cache
def languages() -> dict[str, Language]:
    """Every catalogue in the folder, by code."""
    found = {}
    for file in sorted(FOLDER.glob("*.json")):
        found[file.stem] = Language(file.stem, json.loads(file.read_text(encoding="utf-8")))
    return found


def choose(wanted: str, accepted: str = "") -> Language:
    """The language of a code, else the first of an ``Accept-Language`` header that we have, else English."""
    offered = [wanted, *(part.split(";")[0].strip().split("-")[0].lower() for part in accepted.split(","))]
    return next((languages()[code] for code in offered if code in languages()), languages()[DEFAULT])
