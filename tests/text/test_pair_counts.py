"""Counts that are kept up to date are those that counting everything anew gives."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from lit_llm.text.pair_counts import PairCounts


def counted(words, frequency):
    found = Counter()
    for word, n in zip(words, frequency, strict=True):
        for pair in pairwise(word):
            found[pair] += n
    return found


def merged(word, pair, made):
    found, at = [], 0
    while at < len(word):
        here = tuple(word[at : at + 2]) == pair
        found.append(made if here else word[at])
        at += 2 if here else 1
    return found


def most_frequent(words, frequency, forbidden, least):
    counts = {pair: n for pair, n in counted(words, frequency).items() if n >= least and pair not in forbidden}
    return min(counts, key=lambda pair: (-counts[pair], pair), default=None)


@pytest.mark.parametrize("seed", range(12))
def test_they_are_what_counting_anew_gives(seed):
    """Few ids, so that words are full of runs (aaaa) and of pairs side by side (abab)."""
    rng = random.Random(seed)
    words = [[rng.randrange(2 + seed % 3) for _ in range(rng.randint(0, 14))] for _ in range(25)]
    frequency = [rng.randint(1, 9) for _ in words]
    pairs, forbidden, least = PairCounts(words, frequency), set(), 3
    for made in range(10, 60):
        pair = pairs.most_frequent(least)
        assert pair == most_frequent(words, frequency, forbidden, least)
        if pair is None:
            break
        choice = rng.randrange(4)
        if choice == 0:
            pairs.forbid(pair)
            forbidden.add(pair)
        elif choice == 1:  # some other spelling of the words with the pair, no longer than before
            found = {i: word for i, word in enumerate(words) if pair in pairwise(word)}
            assert pairs.words_with(pair) == found
            new = {i: merged(word, pair, made)[: rng.randint(1, 9)] for i, word in found.items()}
            pairs.rewrite(new)
            words = [new.get(i, word) for i, word in enumerate(words)]
        else:
            pairs.merge(pair, made)
            words = [merged(word, pair, made) for word in words]
    assert made > 11


def test_no_words_have_no_pairs():
    assert PairCounts([], []).most_frequent(1) is None
    assert PairCounts([[], [1]], [3, 4]).most_frequent(1) is None


def test_a_merge_looks_at_what_it_changes_alone(monkeypatch):
    """Not at the rest of the words: what costs grows with the places of the pair, not with the length of the words."""
    looked, before = [], PairCounts._count

    def count(self, places, *rest):
        looked.append(len(places))
        return before(self, places, *rest)

    monkeypatch.setattr(PairCounts, "_count", count)
    words = [[n % 7 for n in range(500)] + [8, 9] + [n % 5 for n in range(500)] for _ in range(3)]
    pairs = PairCounts(words, [1, 1, 1])
    looked.clear()
    pairs.merge((8, 9), 10)
    assert looked == [9, 9]  # three places in each word, before and after
    assert pairs.words_with((10, 0)) == {i: merged(word, (8, 9), 10) for i, word in enumerate(words)}
