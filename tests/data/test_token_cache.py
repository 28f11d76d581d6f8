"""Tokens are made once; never reused when anything they depend on has changed; never half there."""

import itertools
import runpy
import time

import numpy as np
import pytest

from lit_llm.data import token_cache
from lit_llm.data.documents import reader
from lit_llm.data.quality import screening
from lit_llm.data.token_cache import cached_tokens, content_hash
from lit_llm.errors import UserError
from lit_llm.lineage import code_hash
from lit_llm.runtime import source_files
from lit_llm.runtime.code_key import code_key

TEXTS = ["ab", "", "cde"]
NAMED = ("cells", "column_map", "file_rows", "formats", "options", "row_errors", "row_keys", "sources", "splits")
"""What reads the files that data.decontaminate names: their texts are in the key."""


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


def test_a_second_use_takes_no_time(tmp_path):
    texts, encoder, times = ["x" * 100] * 20_000, Encoder(), [time.process_time()]
    cached_tokens(texts, encoder, key="k", cache_dir=tmp_path)
    calls = encoder.calls
    times.append(time.process_time())
    store = cached_tokens(texts, encoder, key="k", cache_dir=tmp_path)
    times.append(time.process_time())  # of this process alone: the machine may be busy
    first, second = (after - before for before, after in itertools.pairwise(times))
    assert second < first / 4
    assert calls == encoder.calls > 1 and np.all(store.lengths == 100)


def test_other_code_makes_other_tokens(tmp_path, monkeypatch):
    """A mask that was wrong is not read again by the version that makes it right."""

    def made(source):
        (tmp_path / "my_masks.py").write_text(f"def encode(texts):\n    return [({source}, None) for text in texts]\n")
        code_key.cache_clear()
        encode = runpy.run_path(str(tmp_path / "my_masks.py"), run_name="my_masks")["encode"]
        return cached_tokens(TEXTS, encode, key="k", cache_dir=tmp_path).tokens(0, 0, 2).tolist()

    monkeypatch.syspath_prepend(tmp_path)
    assert made("[1] * len(text)") == [1, 1]
    assert made("[2] * len(text)") == [2, 2]
    monkeypatch.setattr(token_cache, "CODE", (*token_cache.CODE, "my_masks"))
    assert made("[2] * len(text)") == [2, 2]
    assert len(list((tmp_path / "tokens").iterdir())) == 3  # the room that makes tokens counts as the caller does
    code_key.cache_clear()


@pytest.mark.parametrize(
    ("rooms", "beside"),
    [
        (token_cache.CODE, ["lit_llm.model_sources"]),  # what they read is in a tokenizer's fingerprint
        (reader.CODE, ["lit_llm.data.row_errors", "lit_llm.data.streams"]),
        (screening.CODE, [f"lit_llm.data.{name}" for name in NAMED]),
    ],
)
def test_the_code_that_counts_is_all_that_makes_the_result(rooms, beside):
    """What a room imports is in the key too, or only reads, names and tells."""
    modules = [one for room in rooms if not room.endswith("==") for one in modules_in(room)]
    found = {name for module in modules for name in code_hash.imports(module) if name.startswith("lit_llm.")}
    known = (*rooms, "lit_llm.errors", "lit_llm.runtime", *beside)
    assert len(modules) > 3
    assert [name for name in sorted(found) if not any(name == one or name.startswith(f"{one}.") for one in known)] == []


def modules_in(room):
    path = source_files.module_file(room)
    names = path.parent.glob("*.py") if path.name == "__init__.py" else ()
    return [room, *(f"{room}.{one.stem}" for one in names if one.stem != "__init__")]
