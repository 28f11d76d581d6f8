"""Tokens that Megatron and litdata wrote: the documents that these formats say, as they are."""

import json
import struct
from collections import Counter

import numpy as np
import pytest

from lit_llm.data.options import TextOptions
from lit_llm.data.raw_text import RawText
from lit_llm.data.shards import portions
from lit_llm.data.token_files import token_files
from lit_llm.errors import UserError

DOCUMENTS = 90


def megatron(folder, documents, *, code=8, dtype=np.uint16, split=False):
    """As its writer lays it out; ``split``: each document is two sequences."""
    sequences = [half for one in documents for half in ((one[:3], one[3:]) if split else (one,))]
    lengths = np.array([len(one) for one in sequences], np.int32)
    places = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]) * np.dtype(dtype).itemsize
    borders = np.arange(len(documents) + 1, dtype=np.int64) * (2 if split else 1)
    head = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(sequences), len(borders))
    (folder / "a.idx").write_bytes(head + lengths.tobytes() + places.astype(np.int64).tobytes() + borders.tobytes())
    (folder / "a.bin").write_bytes(b"".join(np.array(one, dtype).tobytes() for one in sequences))
    return str(folder / "a.idx")


def litdata(folder, documents, *, form="no_header_tensor:16", dtype=np.int32, chunk=20):
    """As its writer lays it out: chunks of some items each."""
    names = []
    for number, begin in enumerate(range(0, len(documents), chunk)):
        items = [np.array(one, dtype).tobytes() for one in documents[begin : begin + chunk]]
        borders = np.cumsum([4 * (len(items) + 2), *map(len, items)]).astype(np.uint32)
        names.append(f"chunk-0-{number}.bin")
        (folder / names[-1]).write_bytes(struct.pack("<I", len(items)) + borders.tobytes() + b"".join(items))
    config = {"compression": None, "data_format": [form], "item_loader": "TokensLoader"}
    (folder / "index.json").write_text(json.dumps({"chunks": [{"filename": name} for name in names], "config": config}))
    return str(folder)


FORMATS = {
    "megatron": megatron,
    "megatron, two sequences a document": lambda *given: megatron(*given, split=True, code=4, dtype=np.int32),
    "litdata, tensors": litdata,
    "litdata, arrays": lambda *given: litdata(*given, form="no_header_numpy:5", dtype=np.uint16),
}


@pytest.fixture
def documents(tokenizer, sentence):
    return [tokenizer.encode("\n".join(sentence(n * 10 + k) for k in range(3 + n % 4))) for n in range(DOCUMENTS)]


@pytest.mark.parametrize(("name", "ends"), list(zip(FORMATS, [True, False, False, True], strict=True)))
def test_documents_are_trained_and_held_out_as_their_texts_would_be(
    tokenizer, tmp_path, write, documents, name, ends, monkeypatch
):
    monkeypatch.setattr(portions, "PORTION", 1000)
    end = [tokenizer.document_end_id] if ends else []
    path = FORMATS[name](tmp_path, [[*ids, *end] for ids in documents])
    texts = write("texts/a.jsonl", [{"text": tokenizer.decode(ids)} for ids in documents])
    options = {"max_length": 32, "cache_dir": str(tmp_path / "cache"), "prepare_workers": 1}
    given, made = (
        RawText(TextOptions(path=one, stream_above=0, **options), tokenizer=tokenizer) for one in (path, texts)
    )
    for data in (given, made):
        rows = data.prepared.train
        items = [rows[number] for number in range(len(rows))]
        data.trained = Counter(int(label) for item in items for label in item.labels if label != -100)
    assert given.trained == made.trained and given.counts() == made.counts()
    assert [item.text for item in given.heldout()[0].items] == [item.text for item in made.heldout()[0].items]
    assert given.train_tokens == made.train_tokens


def test_tokens_that_the_text_would_not_have_stay(tokenizer, tmp_path, documents):
    """Letters one by one, which no encoding of the text gives."""
    apart = [[i for letter in tokenizer.decode(ids) for i in tokenizer.encode(letter)] for ids in documents]
    path = megatron(tmp_path, apart)
    options = TextOptions(
        path=path,
        max_length=32,
        cache_dir=str(tmp_path / "c"),
        validation_fraction=0,
        test_fraction=0,
        prepare_workers=1,
    )
    rows = RawText(options, tokenizer=tokenizer).prepared.train
    found = Counter(int(label) for n in range(len(rows)) for label in rows[n].labels if label != -100)
    assert found == Counter([i for ids in apart for i in [*ids, tokenizer.document_end_id]])


def test_what_is_no_such_file_or_of_another_tokenizer_is_one_line(tokenizer, tmp_path, documents):
    def refused(path):
        options = TextOptions(path=path, max_length=32, cache_dir=str(tmp_path / "c"), prepare_workers=1)
        with pytest.raises(UserError) as raised:
            RawText(options, tokenizer=tokenizer).setup()
        assert "\n" not in str(raised.value)
        return str(raised.value)

    path = megatron(tmp_path, [*documents, [70_000 % 2**16, 401]])
    assert f"document 91 has the token 4464, and the tokenizer has {tokenizer.vocab_size}" in refused(path)
    whole = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(whole[:-10])
    assert "a.idx: no tokens can be read from it (the .bin has" in refused(path)
    (tmp_path / "a.bin").unlink()
    assert "a.bin, which has the tokens, is not there" in refused(path)
    (tmp_path / "a.bin").write_bytes(whole)
    assert token_files(str(tmp_path / "a.bin")) == token_files(path) == [path, str(tmp_path / "a.bin")]
    assert token_files("https://h/a.bin") == ["https://h/a.idx", "https://h/a.bin"]
    (tmp_path / "a.bin").rename(tmp_path / "alone.bin")
    assert "alone.bin: a .bin is read with Megatron's index" in (told := refused(str(tmp_path / "alone.bin")))
    assert f"{tmp_path / 'alone.idx'} is not there" in told
    assert ".bin is no rows of text; of Megatron's tokens name" in refused(str(tmp_path / "*.bin"))
    (tmp_path / "alone.bin").rename(tmp_path / "a.bin")
    (tmp_path / "a.idx").write_bytes(b"NOTHING" * 30)
    assert "it does not begin as Megatron's index does" in refused(path)
    folder = tmp_path / "lit"
    folder.mkdir()
    litdata(folder, documents, form="pil")
    assert "items of the form pil, not packed" in refused(str(folder))
    litdata(folder, documents)
    assert "one of the chunks of a folder of litdata's; give the folder" in refused(str(folder / "chunk-0-2.bin"))
    (folder / "chunk-0-2.bin").unlink()
    assert "names 1 chunks that are not there" in refused(str(folder))
    with pytest.raises(UserError, match=r"holds tokens, of which no tokenizer can be learned; give the one"):
        list(RawText.tokenizer_texts(TextOptions(path=megatron(tmp_path, documents), cache_dir=str(tmp_path / "c"))))
