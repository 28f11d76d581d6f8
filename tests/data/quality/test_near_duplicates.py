"""Near duplicates: found as they are known to be, whatever the order of the texts."""

import hashlib
import random
import statistics

import pytest
from benchmarks.deduplication.pairs import corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.data.quality import minhash, near_duplicates
from lit_llm.data.quality.near_duplicates import Similar, connected, kept, like_one_of, similar
from lit_llm.data.quality.units import ngrams, units


def keys(texts):
    return [hashlib.sha256(text.encode()).digest() for text in texts]


def jaccard(one, other, n=3):
    left, right = (set(ngrams(units([text]), n).hashes.tolist()) for text in (one, other))
    return len(left & right) / len(left | right)


def test_generated_pairs_are_found_and_nothing_else():
    made = corpus(pairs=300, others=600)
    found = similar(made.texts, 0.8, priority=keys(made.texts))
    told = {tuple(sorted(pair)) for pair in found.pairs.tolist()}
    true = {tuple(sorted(pair)) for pair in made.pairs}
    assert len(told & true) >= 0.95 * len(true)
    assert len(told & true) >= 0.99 * len(told)
    for (one, other), measured in zip(found.pairs.tolist()[:50], found.similarity.tolist(), strict=False):
        assert measured == pytest.approx(jaccard(made.texts[one], made.texts[other])) and measured >= 0.8


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("ab c中", min_size=1, max_size=20), min_size=1, max_size=12), st.randoms())
def test_identical_texts_are_always_found_and_the_order_makes_no_difference(texts, order):
    texts = texts + texts[:2]

    def left(some):
        homes = kept(similar(some, 0.8, priority=keys(some)))
        assert all(homes[home] == home for home in homes)
        return sorted(text for n, text in enumerate(some) if homes[n] == n)

    stays = left(texts)
    worded = [text for text in stays if len(units([text]).hashes)]
    assert len(set(worded)) == len(worded)
    order.shuffle(texts)
    assert left(texts) == stays


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95])
def test_signatures_estimate_the_true_similarity(share):
    rng = random.Random(1)
    count, size, errors = 256, 400, []
    for _ in range(20):
        both = [f"b{rng.random()}" for _ in range(round(size * share))]
        pair = [" ".join(both + [f"{rng.random()}" for _ in range(size - len(both))]) for _ in "ab"]
        one, other = minhash.signatures(ngrams(units(pair), 1), count)
        errors.append((one == other).mean() - jaccard(*pair, n=1))
    # Of a mean of 20 estimates from 256 values each, 4 standard deviations of a binomial.
    assert abs(statistics.mean(errors)) < 4 * (0.25 / (count * 20)) ** 0.5
    assert max(map(abs, errors)) < 4.5 * (0.25 / count) ** 0.5


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_pairs_at_the_threshold(threshold):
    bands, rows = minhash.shape(threshold)
    assert bands * rows <= minhash.VALUES
    assert 1 - (1 - threshold**rows) ** bands >= (minhash.FOUND if threshold > 0.3 else 0.99)


def test_arabic_and_chinese():
    arabic = "يدفع المستأجر الإيجار في اليوم الأول من كل شهر ويسلم المفاتيح عند نهاية العقد إلى المالك"
    marked = arabic.replace("يدفع", "يَدْفَعُ").replace("كل", "كـــل")
    chinese = "租户应当在每月第一天支付租金，并在合同结束时将钥匙交还给房东，否则押金不予退还。"
    texts = [arabic, marked, chinese, chinese.replace("，", " ").replace("每月", "每个月"), "租户" * 20]
    found = similar(texts, 0.8, priority=keys(texts))
    assert {tuple(sorted(pair)) for pair in found.pairs.tolist()} == {(0, 1), (2, 3)}


def test_the_longest_is_kept_and_no_chain_takes_a_text_away():
    base = [f"word{n}" for n in range(100)]
    # Each is like its neighbour and unlike the one behind it.
    chain = [" ".join(base[first:]) for first in (0, 12, 24)]
    found = similar(chain, 0.8, priority=keys(chain))
    assert {tuple(pair) for pair in found.pairs.tolist()} == {(0, 1), (1, 2)}
    assert kept(found) == [0, 0, 2]
    assert connected(found) == [0, 0, 0]  # while all of the chain is one group
    assert like_one_of(chain[2:], chain[:2], 0.8) == [-1, 0]
    assert like_one_of(chain[:2], chain[::-1], 0.8) == [1, 0, 0]


def test_every_copy_of_a_held_out_text_is_found_however_many_there_are():
    rng = random.Random(5)
    words = [f"w{n}" for n in range(3000)]
    # 60 held-out texts of one form, many in a bucket, and for each three copies that are like it alone.
    form = rng.choices(words, k=55)
    ends = [rng.choices(words, k=10) for _ in range(60)]
    held = [" ".join([*form, *end]) for end in ends]
    copies = [" ".join([*form, *end, "more", "words"]) for end in ends] * 3
    assert like_one_of(held, copies, 0.8) == [*range(60)] * 3
    assert like_one_of(held, ["", *(" ".join(rng.choices(words, k=60)) for _ in range(20))], 0.8) == [-1] * 21
    assert like_one_of([], copies[:2], 0.8) == [-1, -1] and like_one_of(held, [], 0.8) == []
    near = [f"{held[0]} {n}" for n in range(100)]
    assert like_one_of(held[:1], near, 0.8) == [0] * 100


def test_many_texts_of_one_form_cost_no_square(monkeypatch):
    form = " ".join(f"clause{n}" for n in range(60))
    texts = [f"{form} signed by {n}" for n in range(500)]
    seen = []
    measured = near_duplicates._measured
    monkeypatch.setattr(near_duplicates, "_measured", lambda *a: (seen.append(len(a[1])), measured(*a))[1])
    found: Similar = similar(texts, 0.8, priority=keys(texts))
    homes = kept(found)
    assert seen[0] < 30 * len(texts) and len(set(homes)) == 1
