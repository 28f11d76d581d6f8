"""Cleaning keeps every script; duplicates and overlap are found exactly."""

from hypothesis import given
from hypothesis import strategies as st

from lit_llm.data.filters import clean, content_key, group_key, share, without_overlap
from lit_llm.records import Comparison, Document, Example, Message, Prompt


def test_cleaning():
    assert clean("a\r\nb\rc\x00d\th") == "a\nb\ncd\th"
    kept = "a\fb\x0bc\x85d\u2028e\u2029f\ufeff\x1b[g\x1c\x7f مرحبا\u200f\u200d 👩‍👩‍👧 e\u0301\n\n  \tx\u00a0y"
    assert clean(kept) == kept


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_cleaning_twice_is_cleaning_once(text):
    once = clean(text)
    assert clean(once) == once
    assert not set("\x00\r") & set(once)
    assert once.replace("\n", "") == text.replace("\r", "").replace("\n", "").replace("\0", "")


def test_duplicates_and_overlap_ignore_the_place_alone():
    a, again, b = Document("x", "f:1"), Document("x", "g:9"), Document("y", "f:2")
    assert content_key(a) == content_key(again) != content_key(b)
    assert without_overlap([a, b], [again]) == ([b], 1)
    assert content_key(Document("ab")) != content_key(Document("a b"))


def test_the_same_prompt_with_another_answer_or_annotator_is_overlap():
    def asked(question, *answer):
        return (Message("user", question), *(Message("assistant", a) for a in answer))

    def compared(question, who):
        return Comparison(asked(question), ("a", "b"), (1, 2), annotator=who)

    examples = [Example(asked("q", "one")), Example(asked("p", "one"))]
    assert without_overlap(examples, [Example(asked("q", "two"))]) == (examples[1:], 1)
    comparisons = [compared("q", "ann"), compared("p", "ann")]
    assert without_overlap(comparisons, [compared("q", "bob")]) == (comparisons[1:], 1)
    prompts = [Prompt(asked("q")), Prompt(asked("p"))]
    assert without_overlap(prompts, [Prompt(asked("q"), "elsewhere")]) == (prompts[1:], 1)
    alone = [Example((Message("assistant", n),)) for n in "ab"]
    assert without_overlap(alone, alone[:1]) == (alone[1:], 1)


def test_keys_tell_apart_where_texts_meet():
    one = Example((Message("user", "ab"), Message("assistant", "c")))
    two = Example((Message("user", "a"), Message("assistant", "bc")))
    assert content_key(one) != content_key(two)
    left = Comparison((Message("user", "q"),), ("a", "b"), (1, 2), annotator="p")
    right = Comparison((Message("user", "q"),), ("a", "b"), (1, 2), annotator="r")
    assert content_key(left) != content_key(right)  # two people's rankings are two facts
    assert group_key(left) == group_key(right)  # that stay in one split


def test_shares_are_spread_evenly_and_fixed():
    shares = [share(content_key(Document(str(n)))) for n in range(4000)]
    assert abs(sum(s < 0.1 for s in shares) / 4000 - 0.1) < 0.02
    assert all(0 <= s < 1 for s in shares)
    assert share(bytes.fromhex("80" + "00" * 15)) == 0.5
