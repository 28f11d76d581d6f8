"""A set of texts of which is known which say nearly the same: pairs of an original and its altered copy, and among them
texts that only look alike, which a search must not take for copies.

Words are drawn with the frequencies of a natural language (Zipf), in Latin and Arabic letters and in ideographs.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

SCRIPTS = {"latin": "etaoinsrhldcumfpgwybvk", "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي", "ideographs": ""}
WORDS = 20_000  # of each vocabulary
SENTENCE = 8, 22  # words
LENGTHS = 40, 400  # words of a text


@dataclass(frozen=True)
class Corpus:
    texts: list[str]
    pairs: list[tuple[int, int]]  # an original and its copy, by their numbers
    kinds: list[str]  # how each pair's copy was altered


class Language:
    """Sentences as lists of words."""

    def __init__(self, script: str, random: Random) -> None:
        self.random, self.ideographs = random, script == "ideographs"
        letters = SCRIPTS[script]
        self.words = (
            [chr(0x4E00 + n) for n in range(3000)]
            if self.ideographs
            else ["".join(random.choices(letters, k=random.randint(2, 9))) for _ in range(WORDS)]
        )
        total, self.weights = 0.0, []
        for rank in range(len(self.words)):
            total += 1 / (rank + 3)
            self.weights.append(total)

    def draw(self, count: int) -> list[str]:
        return self.random.choices(self.words, cum_weights=self.weights, k=count)

    def sentences(self, words: int) -> list[list[str]]:
        made: list[list[str]] = []
        while words > 0:
            made.append(self.draw(self.random.randint(*SENTENCE)))
            words -= len(made[-1])
        return made

    def text(self, sentences: Sequence[Sequence[str]]) -> str:
        if self.ideographs:
            return "".join("".join(words) + "。" for words in sentences)
        return " ".join(" ".join(words).capitalize() + "." for words in sentences)


Sentences = list[list[str]]


def corpus(pairs: int, others: int, seed: int = 0) -> Corpus:
    """``pairs`` originals with a copy each, and ``others`` texts that have none, in a random order."""
    random = Random(seed)
    languages = [Language(script, random) for script in SCRIPTS]
    texts: list[tuple[str, int]] = []  # the text, the number of its pair or -1
    kinds: list[str] = []
    for number in range(pairs):
        language = random.choices(languages, (8, 1, 1))[0]
        sentences = language.sentences(_length(random))
        name, alter = random.choice(list(ALTERED.items()))
        kinds.append(name)
        texts += [(language.text(sentences), number), (alter(language, sentences, random), number)]
    while len(texts) < 2 * pairs + others:
        language = random.choices(languages, (8, 1, 1))[0]
        texts += [(text, -1) for text in random.choice(ALIKE)(language, random)]
    random.shuffle(texts)
    homes: dict[int, list[int]] = {}
    for place, (_, number) in enumerate(texts):
        if number >= 0:
            homes.setdefault(number, []).append(place)
    return Corpus([text for text, _ in texts], [(a, b) for _, (a, b) in sorted(homes.items())], kinds)


def _length(random: Random) -> int:
    return min(max(int(random.lognormvariate(4.9, 0.6)), LENGTHS[0]), LENGTHS[1])


# Copies


def _words_changed(language: Language, sentences: Sentences, random: Random) -> str:
    """Up to one word in 25 is another, is missing or is new."""
    made = [list(words) for words in sentences]
    total = sum(map(len, made))
    for _ in range(max(1, int(total * random.uniform(0.0, 0.04)))):
        words = random.choice([one for one in made if len(one) > 2])
        at, what = random.randrange(len(words)), random.random()
        words[at : at + (what < 0.75)] = language.draw(1) if what < 0.5 or what > 0.75 else []
    return language.text(made)


def _written_otherwise(language: Language, sentences: Sentences, random: Random) -> str:
    """Other case, punctuation, line ends, wide letters; nothing that is said is another thing."""
    text = language.text(sentences)
    text = text.upper() if random.random() < 0.3 else text
    text = text.replace(". ", random.choice(["!\n\n", ".\r\n", " ... ", "; "]))
    if random.random() < 0.3:
        text = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
    return unicodedata.normalize(random.choice(["NFC", "NFD"]), text)


def _framed(language: Language, sentences: Sentences, random: Random) -> str:
    """A heading before it or a line behind it, of a tenth of its words at most."""
    total = sum(map(len, sentences))
    frame = language.draw(max(2, int(total * random.uniform(0.02, 0.1))))
    return language.text([frame, *sentences] if random.random() < 0.5 else [*sentences, frame])


def _cut(language: Language, sentences: Sentences, random: Random) -> str:
    """Without its last words, a tenth at most."""
    drop = max(1, int(sum(map(len, sentences)) * random.uniform(0.0, 0.1)))
    made = [list(words) for words in sentences]
    for _ in range(drop):
        made[-1].pop()
        if not made[-1]:
            made.pop()
    return language.text(made)


def _moved(language: Language, sentences: Sentences, random: Random) -> str:
    """A sentence stands elsewhere."""
    made = list(sentences)
    made.insert(random.randrange(len(made)), made.pop(random.randrange(len(made))))
    return language.text(made)


ALTERED: dict[str, Callable[[Language, Sentences, Random], str]] = {
    "words changed": _words_changed,
    "written otherwise": _written_otherwise,
    "framed": _framed,
    "cut": _cut,
    "sentence moved": _moved,
}


# Texts that look alike and are no copies


def _unlike(language: Language, random: Random) -> list[str]:
    return [language.text(language.sentences(_length(random)))]


def _forms(language: Language, random: Random) -> list[str]:
    """A form that several filled in: five words in six are the form's."""
    form = [(random.randint(3, 5), language.draw(random.randint(16, 24))) for _ in range(random.randint(3, 10))]
    return [language.text([[*words, *language.draw(gap)] for gap, words in form]) for _ in range(4)]


def _quotations(language: Language, random: Random) -> list[str]:
    """Two texts that quote the same: half to two thirds of each is the quotation."""
    length = _length(random)
    shared = language.sentences(int(length * random.uniform(0.5, 0.67)))
    own = length - sum(map(len, shared))
    return [language.text([*shared, *language.sentences(max(own, length // 3))]) for _ in range(2)]


def _same_notice(language: Language, random: Random) -> list[str]:
    """Texts of their own under one notice of 60 words."""
    notice = language.sentences(60)
    return [language.text([*language.sentences(max(60, _length(random))), *notice]) for _ in range(3)]


def _same_subject(language: Language, random: Random) -> list[str]:
    """Texts made of the same few words."""
    few = language.draw(60)
    return [language.text([random.choices(few, k=random.randint(*SENTENCE)) for _ in range(10)]) for _ in range(3)]


ALIKE: tuple[Callable[[Language, Random], list[str]], ...] = (_unlike, _forms, _quotations, _same_notice, _same_subject)
