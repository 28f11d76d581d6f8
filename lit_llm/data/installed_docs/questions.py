"""Questions about functions in many wordings, with short natural answers: the default instructions and prompts."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lit_llm.data.installed_docs.extraction import Entry
from lit_llm.data.installed_docs.prose import is_sentence

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Verbs in the base form with which summaries begin.
_VERBS = _words(
    """
    accept access activate adapt add adjust advance aggregate align allocate allow append apply approximate arrange
    assert assign associate attach attempt authenticate average begin bind block broadcast build cache calculate
    call cancel cast change check choose clean clear clip clone close coerce collapse collect combine compare
    compile compress compute concatenate configure connect construct consume contain contract control convert copy
    count create cut deal decode decompress decorate decrease deduce define delete describe deserialize detect
    determine differentiate disable discard dispatch display divide do download draw drop dump duplicate emit enable
    encode encrypt ensure enter enumerate escape estimate evaluate examine exclude execute exit expand export
    express extend extract factor fetch fill filter finalize find fit flatten flush fold force format forward free
    generate get give group guess handle hash hold identify ignore implement import include increase increment
    indicate infer inform initialize insert inspect install instantiate integrate interpolate interpret intersect
    invert invoke iterate join keep kill launch limit link list listen load locate lock log look lookup lower make
    manage manipulate map mark match measure merge modify monitor move multiply negate normalize notify obtain offer
    open order override pack pad parse partition pass perform permute pick place plot pop post prefix prepare
    prepend present preserve prevent print process produce project propagate provide prune publish push put query
    quote raise randomize read rebuild receive recompute reconstruct record recover reduce refine register reject
    release reload remove rename render reorder repeat replace replicate report represent request require reserve
    reset reshape resize resolve restore restrict resume retrieve return reverse rewrite roll rotate round run
    sample save scale scan schedule search seek select send separate serialize serve set setup shift show shuffle
    shut signal simplify simulate skip slice solve sort specify split squeeze stack start stop store strip submit
    substitute subtract suggest sum support suspend swap switch synchronize take tell terminate test tokenize track
    train transfer transform translate transpose traverse trigger trim truncate try turn unfold uninstall unlock
    unpack unregister unwrap update upload use validate verify visit wait walk warn watch wrap write yield zip
    """
)
_IRREGULAR = {"do": "does", "go": "goes", "have": "has", "be": "is", "try": "tries"}


_NOUNS = _words(
    """
    a an array bool boolean dict dictionary float function generator graph index int integer iterable iterator list
    mapping matrix name number object path scalar sequence set string tensor the tuple value values vector whether
    """
)


def third_person(verb: str) -> str:
    """``return`` -> ``returns``."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if verb.endswith(("s", "x", "z", "ch", "sh")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


_THIRD = frozenset(third_person(v) for v in _VERBS)


def action(summary: str) -> str | None:
    """``Return the sum.`` -> ``returns the sum.``; None where the sentence does not begin with a verb."""
    first, _, rest = summary.partition(" ")
    low = first.lower()
    adverb = ""
    if low.endswith("ly") and rest:  # "Recursively delete ..."
        adverb, (low, _, rest) = f"{low} ", rest.partition(" ")
    if rest.startswith("of "):  # "List of names"
        return None
    if low in _VERBS:
        return f"{adverb}{third_person(low)} {rest}"
    return f"{adverb}{low} {rest}" if low in _THIRD else None


def spoken(summary: str, subject: str) -> str | None:
    """The summary as a sentence about a subject, or None where it has neither a verb nor an article to begin with."""
    summary = finished(summary)
    if (done := action(summary)) is not None:
        return f"{subject} {done}"
    first, _, rest = summary.partition(" ")
    if first in ("A", "An", "The") and not _has_verb(rest):
        return f"{subject} is {first.lower()} {rest}"
    return None


_BE = _words(
    """
    are can does has have is may must should was will
    """
)
_LINKS = _words(
    """
    by containing for from in of representing that to used where which who whose with
    """
)


def _has_verb(text: str) -> bool:
    """Whether what looks like a noun phrase is in truth a sentence ("The list is sorted.")."""
    words = [w.strip(".,;").lower() for w in text.split()]
    head = words[: next((n for n, w in enumerate(words) if w in _LINKS), len(words))]
    return any(w in _BE or w in _THIRD for w in head)


def action_or_thing(entry: Entry) -> bool:
    """Whether the summary can be spoken: then it is worth a question."""
    return spoken(entry.summary, "It") is not None


def finished(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def listed(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def arguments(entry: Entry) -> list[str]:
    """Names of the arguments alone."""
    return [a.split("=")[0].lstrip("*") for a in entry.arguments if a not in ("*", "/")]


def number(key: str) -> int:
    """The same number for the same text on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


Answer = Callable[
    [Entry, Sequence[Entry]], tuple[dict[str, str], str] | None
]  # what fills the question, and the answer


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to ask for one thing. Held-out wordings are only ever asked in the test."""

    name: str
    question: str
    answer: Answer
    heldout: bool = False


def _does(subject: str) -> Answer:
    def answer(entry: Entry, _: Sequence[Entry]) -> tuple[dict[str, str], str] | None:
        said = spoken(entry.summary, subject.format(short=entry.short, kind=entry.kind))
        return None if said is None else ({}, said)

    return answer


def _returns(entry: Entry, _: Sequence[Entry]) -> tuple[dict[str, str], str] | None:
    text = entry.returns
    first = text.split(" ")[0]
    if (
        not is_sentence(text, 2, 20)
        or action(text)
        or _has_verb(text)
        or first in ("If", "None", "When", "Return", "See")
    ):
        return None
    known = first in (
        "A",
        "An",
        "The",
        "Array",
        "List",
        "Dictionary",
        "Tuple",
        "Set",
        "True",
        "Number",
        "Whether",
        "String",
    )
    return {}, finished(f"It returns {text[0].lower() + text[1:] if known and first != 'True' else text}")


def _takes(entry: Entry, _: Sequence[Entry]) -> tuple[dict[str, str], str] | None:
    names = arguments(entry)
    return ({}, f"It takes {listed(names)}.") if 1 <= len(names) <= 6 else None


def _counts(entry: Entry, _: Sequence[Entry]) -> tuple[dict[str, str], str] | None:
    names = arguments(entry)
    if not 1 <= len(names) <= 6:
        return None
    return {}, f"It has {_NUMBERS[len(names)]} argument{'s' * (len(names) > 1)}: {listed(names)}."


def _argument(entry: Entry, _: Sequence[Entry]) -> tuple[dict[str, str], str] | None:
    known = [(n, t) for n, t in entry.parameters.items() if is_sentence(t, 4, 20) and not t.startswith(("If", "See"))]
    if not known:
        return None
    name, text = known[number(entry.qualified) % len(known)]
    low = text[0].lower() + text[1:] if text.split()[0] in ("A", "An", "The", "Whether") else text
    return {"argument": name}, finished(f"It is {low}" if low != text and not low.startswith("whether") else text)


def _belongs(entry: Entry, _: Sequence[Entry]) -> tuple[dict[str, str], str] | None:
    path = entry.qualified[: -len(entry.name) - 1]
    return {}, f"It is in {path}."


def _which(entry: Entry, others: Sequence[Entry]) -> tuple[dict[str, str], str] | None:
    done = action(finished(entry.summary))
    names = list(dict.fromkeys(o.short for o in others if o.short.lower() != entry.short.lower()))
    if done is None or len(names) < 2:
        return None
    at = number(f"{entry.qualified} which") % 3
    choices = names[:2]
    choices.insert(at, entry.short)
    return {"action": done.rstrip("."), "choices": listed(choices, "or")}, f"That is {entry.short}."


def _name_it(entry: Entry, _: Sequence[Entry]) -> tuple[dict[str, str], str] | None:
    done = action(finished(entry.summary))
    return None if done is None else ({"action": done.rstrip(".")}, f"Use {entry.qualified}.")


def _in_short(entry: Entry, _: Sequence[Entry]) -> tuple[dict[str, str], str] | None:
    said = spoken(entry.summary, "It")
    text = " ".join(entry.body)
    return None if said is None or not 60 <= len(text) <= 360 else ({"text": text}, said)


_IT, _SHORT, _THIS = _does("It"), _does("{short}"), _does("This {kind}")
WORDINGS = (
    Wording("does_1", "What does {name} do?", _IT),
    Wording("does_2", "Explain {name} in one sentence.", _SHORT),
    Wording("does_3", "What is {name} for?", _IT),
    Wording("does_4", "Tell me briefly what {name} does.", _IT),
    Wording("does_5", "I came across {name}. What does it do?", _THIS),
    Wording("does_6", "Describe {name} in a few words.", _SHORT),
    Wording("does_7", "When would I use {name}?", _IT),
    Wording("does_8", "Can you explain {name} to a beginner?", _SHORT),
    Wording("does_9", "Give me a short description of {name}.", _SHORT, heldout=True),
    Wording("does_10", "Please sum up in one line what {name} is good for.", _IT, heldout=True),
    Wording("does_11", "Someone used {name} in their code. What happens there?", _IT, heldout=True),
    Wording("signature_1", "What does this {kind} do? {signature}", _THIS),
    Wording("signature_2", "Here is a signature: {signature}. What might it do?", _IT),
    Wording("signature_3", "Look at {signature} from {package}. What is its purpose?", _IT),
    Wording("signature_4", "Guess from the signature {signature} what the {kind} does.", _IT, heldout=True),
    Wording("text_1", "Sum up this documentation in one sentence: {text}", _in_short),
    Wording("text_2", "{text}\n\nWhich {kind} is meant, in short?", _in_short),
    Wording("text_3", "Shorten this description to one sentence.\n\n{text}", _in_short, heldout=True),
    Wording("takes_1", "Which arguments does {signature} take?", _takes),
    Wording("takes_2", "List the arguments of {signature}.", _takes),
    Wording("takes_3", "Name the arguments that {signature} expects.", _takes, heldout=True),
    Wording("counts_1", "How many arguments does {signature} have?", _counts),
    Wording("counts_2", "Count the arguments of {signature}.", _counts),
    Wording("argument_1", "What is the argument {argument} of {name}?", _argument),
    Wording("argument_2", "In {signature}, what does {argument} mean?", _argument),
    Wording("argument_3", "What should I pass as {argument} to {name}?", _argument, heldout=True),
    Wording("returns_1", "What does {name} return?", _returns),
    Wording("returns_2", "What do I get back from {name}?", _returns),
    Wording("returns_3", "What is the result of calling {name}?", _returns, heldout=True),
    Wording("belongs_2", "Which module is {name} in?", _belongs),
    Wording("which_1", "Which of these {action}: {choices}?", _which),
    Wording("which_2", "I need something that {action}. Is it {choices}?", _which),
    Wording("which_3", "Choose between {choices}: which one {action}?", _which, heldout=True),
    Wording("name_1", "Which {kind} of {package} {action}?", _name_it),
    Wording("name_2", "What can I use from {package} that {action}?", _name_it),
)
FOLLOW_UPS = (
    Wording("then_takes", "Which arguments does it take?", _takes),
    Wording("then_counts", "And how many arguments does it have?", _counts),
    Wording("then_returns", "And what does it return?", _returns),
    Wording("then_argument", "What is {argument}?", _argument),
    Wording("then_belongs", "Where do I find it?", _belongs),
)
_RARE = ("argument", "returns", "text")
OPENINGS = tuple(w for w in WORDINGS if w.name.startswith(("does", "signature")))


def ask(wording: Wording, entry: Entry, others: Sequence[Entry]) -> tuple[str, str] | None:
    """(question, answer), or None where this cannot be asked about this function."""
    made = wording.answer(entry, others)
    if made is None:
        return None
    filled, answer = made
    given = {"name": entry.qualified, "kind": entry.kind, "signature": entry.signature, "package": entry.package}
    return wording.question.format(**given, **filled), answer


def conversations(
    entry: Entry, others: Sequence[Entry], count: int, *, heldout: bool = False, salt: str = ""
) -> Iterator[tuple[list[dict[str, str]], str]]:
    """Up to ``count`` conversations about a function, each with the name of its wording; some have a follow-up."""
    seed = number(f"{entry.module}.{entry.name} {salt}")
    order = random.Random(seed)
    pool = [w for w in WORDINGS if w.heldout == heldout]
    order.shuffle(pool)
    # What it does comes first, then what not every function has to tell, then the rest.
    pool.sort(key=lambda w: 0 if w.name.startswith(("does", "signature")) else 1 if w.name.startswith(_RARE) else 2)
    if order.random() < 0.4 or count == 1:
        order.shuffle(pool)
    families: set[str] = set()
    for wording in pool:
        family = wording.name.partition("_")[0].replace("signature", "does")
        if len(families) == count:
            return
        made = None if family in families else ask(wording, entry, others)
        if made is None:
            continue
        families.add(family)
        messages, name = _turn(*made), wording.name
        if wording in OPENINGS and not heldout and order.random() < 0.3:
            for follow in order.sample(FOLLOW_UPS, len(FOLLOW_UPS)):
                if (more := ask(follow, entry, others)) is not None:
                    messages, name = [*messages, *_turn(*more)], f"{name}+{follow.name}"
                    break
        yield messages, name


def _turn(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
