"""Invariant: a word's probability is the sum over all its spellings in tokens, times that of its ending."""

import itertools
import math

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.generation.next_words import next_words

TOKENS = [b"<end>", b" a", b"b", b"a", b" ", b".", b" ab", b"a b", b"'", b"\xd9", b"\x82"]


class ByHand:
    """The smallest vocabulary with all that is hard: two spellings, a token over two words, a cut character (ق)."""

    control_tokens = {"<end>": 0}  # noqa: RUF012
    beginning = (0,)

    def __init__(self, without=()):
        self.tokens = [b"" if token in without else token for token in TOKENS]

    def token_bytes(self, i):
        return self.tokens[i]

    def encode(self, text):
        ids = []
        while text:
            best = max((i for i in range(1, 9) if text.startswith(TOKENS[i].decode())), key=lambda i: len(TOKENS[i]))
            ids.append(best)
            text = text[len(TOKENS[best].decode()) :]
        return ids


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return LanguageModel(from_depth(len(TOKENS), 1, hidden_size=32, num_heads=2, max_positions=40)).eval()


def brute_force(model, prompt, longest=4):
    """Every sequence of tokens that begins with no lone space; a word counts when the token behind it is known."""
    words = {}
    for length in range(2, longest + 1):
        sequences = torch.tensor([s for s in itertools.product(range(len(TOKENS)), repeat=length) if s[0] != 4])
        rows = torch.cat([torch.tensor([prompt]).expand(len(sequences), -1), sequences], dim=1)
        with torch.no_grad():
            logps = model.logits(model(rows))[:, len(prompt) - 1 : -1].log_softmax(-1)
        p = logps.gather(-1, sequences[..., None]).squeeze(-1).sum(-1).exp().tolist()
        for sequence, probability in zip(sequences.tolist(), p, strict=True):
            word = word_that_just_ended(sequence)
            if word:
                words[word] = words.get(word, 0.0) + probability
    return words


def word_that_just_ended(sequence):
    """The word, if the last token is the first to show where it ends."""

    def read(tokens):
        text = b"".join(b"\n" if i == 0 else TOKENS[i] for i in tokens).decode()
        run = "".join(itertools.takewhile(lambda c: c in "abق", text[1:]))
        return text, run

    try:
        before, run_before = read(sequence[:-1])
        after, run = read(sequence)
    except UnicodeDecodeError:
        return ""
    ended_before = before[1:] != run_before
    return run if after[0] == " " and not ended_before and after[1:] != run else ""


def test_probabilities_are_sums_over_spellings(model):
    prompt = [0, 6, 5, 1]  # a document's end, " ab. a": a letter would go on with "a", so a space has to come first
    expected = brute_force(model, prompt)
    got = dict(next_words(model, ByHand(without=[b" "]), " ab. a", 50, beams=4000))
    for word in ("a", "ab", "aa", "aab", "abb", "aق"):  # what 3 tokens can spell; the brute force sees a fourth behind
        assert got[word] == pytest.approx(expected[word], rel=1e-4), word
    assert sum(got.values()) < 1


def test_single_token_words_exactly(model):
    """With one spelling: P(" ab" ending) = P(" ab") P(no letter behind) + P(" a") P("b") P(...) + P(" ") ..."""
    prompt = [0, 6, 5, 1]

    def p(ids, nexts):
        with torch.no_grad():
            row = model.logits(model(torch.tensor([prompt + ids])))[0, -1].softmax(-1)
        return sum(float(row[i]) for i in nexts)

    ending = [0, 1, 4, 5, 6, 8]  # "." and spaces and the end and a lone apostrophe; not a, b, "a b" or part of a letter
    spaces_a = 0.0
    for spaces in range(14):  # " " may come any number of times before
        before = math.prod(p([4] * n, [4]) for n in range(spaces))
        for spelled in ([1], *([[3]] if spaces else [])):
            ids = [4] * spaces
            spaces_a += before * p(ids, spelled) * (p(ids + spelled, ending))
        if spaces:
            spaces_a += before * p([4] * spaces, [7])  # "a b": the word and what is behind it, in one token
    # a part of a character behind the word that comes out as no letter is not in this vocabulary
    assert dict(next_words(model, ByHand(), " ab. a", 50, beams=4000))["a"] == pytest.approx(spaces_a, rel=1e-3)


def test_likeliest_first_and_as_many_as_asked(small_model, tokenizer):
    words = next_words(small_model, tokenizer, "The cat sat on the", 5)
    assert len(words) == 5 and len({w.text for w in words}) == 5
    assert [w.probability for w in words] == sorted((w.probability for w in words), reverse=True)
    assert all(w.text and not w.text[0].isspace() and 0 < w.probability < 1 for w in words)
    more = next_words(small_model, tokenizer, "The cat sat on the", 5, beams=200)
    assert more[0].probability >= words[0].probability - 1e-6


def test_a_space_at_the_end_changes_nothing(small_model, tokenizer):
    given = [next_words(small_model, tokenizer, text, 3) for text in ("The cat", "The cat ")]
    assert given[0] == given[1]


def test_mistakes(small_model, tokenizer):
    with pytest.raises(UserError, match="next_words=0"):
        next_words(small_model, tokenizer, "The", 0)
    with pytest.raises(UserError, match="room for a word"):
        next_words(small_model, tokenizer, "cat " * 300, 2)
