"""Tokens are made once; never reused when anything they depend on has changed; never half there."""

import time

import numpy as np
import pytest

from lit_llm.data.token_cache import cached_tokens, content_hash
from lit_llm.errors import UserError

TEXTS = ["ab", "", "cde"]


class Encoder:
    """Characters as ids; counts how often it is called."""

    def __init__(self, mask=None):
        self.calls, self.mask = 0, mask

    def __call__(self, texts):
        self.calls += 1
        return [([ord(c) for c in text], None if self.mask is None else [self.mask(c) for c in text]) for text in texts]


def test_tokens_come_back_as_they_were_made_and_are_made_once(tmp_path):
    encoder = Encoder(mask=lambda c: c in "bd")
    for _ in range(3):
        store = cached_tokens(TEXTS, encoder, key="k", cache_dir=tmp_path)
        assert [store.tokens(i, 0, n).tolist() for i, n in enumerate(store.lengths)] == [[97, 98], [], [99, 100, 101]]
        assert store.tokens(2, 1, 3).tolist() == [100, 101]
        assert store.trained(2, 0, 3).tolist() == [False, True, False]
        assert store.lengths.tolist() == [2, 0, 3] and len(store) == 3
    assert encoder.calls == 1


def test_without_a_mask_all_is_trained(tmp_path):
    assert cached_tokens(TEXTS, Encoder(), key="k", cache_dir=tmp_path).trained(2, 0, 2).tolist() == [True, True]


def test_another_key_makes_other_tokens(tmp_path):
    encoder = Encoder()
    cached_tokens(TEXTS, encoder, key="one", cache_dir=tmp_path)
    store = cached_tokens(["z"], encoder, key="two", cache_dir=tmp_path)
    assert store.tokens(0, 0, 1).tolist() == [122] and encoder.calls == 2


def test_borders_between_strings_are_part_of_the_hash():
    assert content_hash(["ab", "c"]) != content_hash(["a", "bc"]) != content_hash(["abc"])
    assert content_hash(["a", "\udc80"]) == content_hash(["a", "\udc80"])


@pytest.mark.parametrize("file", ["tokens.bin", "bounds.bin", "store.json"])
def test_a_damaged_folder_is_made_again(tmp_path, file):
    cached_tokens(TEXTS, Encoder(), key="k", cache_dir=tmp_path)
    (damaged,) = (tmp_path / "tokens").rglob(file)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    encoder = Encoder()
    store = cached_tokens(TEXTS, encoder, key="k", cache_dir=tmp_path)
    assert encoder.calls == 1 and store.tokens(2, 0, 3).tolist() == [99, 100, 101]
    assert {path.name for path in (tmp_path / "tokens").iterdir()} == {damaged.parent.name}


def test_what_fails_half_way_leaves_nothing(tmp_path):
    def fails(_):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cached_tokens(TEXTS, fails, key="k", cache_dir=tmp_path)
    assert list((tmp_path / "tokens").iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the token cache .*data.cache_dir"):
        cached_tokens(TEXTS, Encoder(), key="k", cache_dir=tmp_path / "file")


def test_a_second_use_takes_milliseconds(tmp_path):
    texts = ["x" * 100] * 20_000
    encoder = Encoder()
    cached_tokens(texts, encoder, key="k", cache_dir=tmp_path)
    calls, start = encoder.calls, time.process_time()
    store = cached_tokens(texts, encoder, key="k", cache_dir=tmp_path)
    assert time.process_time() - start < 0.25  # of this process alone: the machine may be busy
    assert calls == encoder.calls > 1 and np.all(store.lengths == 100)
