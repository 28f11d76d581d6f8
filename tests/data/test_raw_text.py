"""Raw text: all of it once an epoch, in exact shares, and nothing held out among what is trained."""

import copy
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_llm.data.options import TextOptions
from lit_llm.data.raw_text import RawText, apportioned, weighted_sources
from lit_llm.errors import UserError
from lit_llm.records import IGNORE, Document, TokenBatch
from lit_llm.text.tokenizer import Tokenizer


@pytest.fixture
def documents(write, sentence):
    """A folder with splits of its own: 40 documents to train on, 6 for validation, 4 to test."""
    rows = [{"text": "\n".join(sentence(n * 10 + k) for k in range(3 + n % 4))} for n in range(50)]
    write("corpus/train.jsonl", rows[:40])
    write("corpus/validation.jsonl", rows[40:46])
    return str(Path(write("corpus/test.jsonl", rows[46:])).parent), [row["text"] for row in rows]


def labelled(loader):
    """The labels of an epoch in the order of the rows."""
    return torch.cat([batch.labels[batch.labels != IGNORE] for batch in loader]).tolist()


def test_an_epoch_trains_every_token_of_the_documents_exactly_once(tokenizer, documents, cache):
    path, texts = documents
    data = RawText(TextOptions(path=path, max_length=32, micro_batch_size=3, cache_dir=cache), tokenizer=tokenizer)
    wanted = [i for text in texts[:40] for i in [*tokenizer.encode(text), tokenizer.document_end_id]]
    for _ in range(2):
        assert sorted(labelled(data.train_dataloader())) == sorted(wanted)
    assert data.train_tokens == len(wanted)
    batch = next(iter(data.train_dataloader()))
    assert isinstance(batch, TokenBatch) and data.batch_type is TokenBatch
    assert {tensor.shape for tensor in batch} == {(3, 32)}


@pytest.mark.parametrize("switch", [None, False, True])
def test_a_document_begins_behind_an_end_or_the_bos_that_the_tokenizer_adds(tokenizer, documents, cache, switch):
    config = tokenizer.config | {"bos_token": "<|im_start|>"} | ({} if switch is None else {"add_bos_token": switch})
    begins = Tokenizer(copy.deepcopy(tokenizer.engine), config)
    first = tokenizer.id_of("<|im_start|>") if switch else tokenizer.document_end_id
    store = RawText(TextOptions(path=documents[0], max_length=32, cache_dir=cache), tokenizer=begins)._tokenized(
        [Document(text) for text in documents[1]], "tokenize"
    )
    for n, text in enumerate(documents[1]):
        ids = store.tokens(n, 0, int(store.lengths[n])).tolist()
        assert ids == [first, *tokenizer.encode(text), tokenizer.document_end_id]


def test_what_it_tells_the_other_rooms(tokenizer, documents, cache):
    path, texts = documents
    data = RawText(TextOptions(path=path, max_length=32, cache_dir=cache), tokenizer=tokenizer)
    assert data.source_names == ("general",)
    assert data.counts() == {"read": 50, "used": 50, "skipped": {}}
    (heldout,) = data.heldout()
    assert (heldout.name, heldout.kind) == ("general", "documents")
    assert [item.text for item in heldout.items] == texts[46:]
    assert list(RawText.tokenizer_texts(TextOptions(path=path, cache_dir=cache))) == texts[:40]
    assert [Path(file).name for file in data.files()] == ["test.jsonl", "train.jsonl", "validation.jsonl"]


def test_the_fingerprint_changes_with_all_that_changes_the_batches_and_nothing_else(tokenizer, write, sentence, cache):
    def fingerprint(texts, file="a.jsonl", **options):
        path = write(file, [{"text": text} for text in texts])
        return RawText(TextOptions(path=path, cache_dir=cache, **options), tokenizer=tokenizer).fingerprint()

    texts = [sentence(n, 40) for n in range(80)]
    options = {"max_length": 16}
    same = fingerprint(texts, **options)
    assert same == fingerprint(texts, **options, num_workers=1, micro_batch_size=2, file="elsewhere.jsonl")
    others = [
        fingerprint([*texts[:-1], texts[-1] + "!"], **options),
        fingerprint(texts, max_length=17),
        fingerprint(texts, **options, seed=1),
    ]
    assert len({same, *others}) == 4


def test_a_stale_token_cache_is_never_used(tokenizer, write, sentence, cache):
    texts = [sentence(n, 30) for n in range(70)]
    path = write("a.jsonl", [{"text": text} for text in texts])
    first = RawText(TextOptions(path=path, max_length=16, cache_dir=cache), tokenizer=tokenizer)
    before = labelled(first.train_dataloader())
    write("a.jsonl", [{"text": text.upper()} for text in texts])
    second = RawText(TextOptions(path=path, max_length=16, cache_dir=cache), tokenizer=tokenizer)
    fresh = RawText(TextOptions(path=path, max_length=16, cache_dir=cache + "-empty"), tokenizer=tokenizer)
    assert labelled(second.train_dataloader()) == labelled(fresh.train_dataloader()) != before


def test_text_shorter_than_a_row_is_one_clear_line(tokenizer, write, cache):
    path = write("short.txt", "A few words.")
    with pytest.raises(UserError, match=r"short.txt: \d+ tokens to train on are less than one row of data.*1 used"):
        RawText(TextOptions(path=path, cache_dir=cache), tokenizer=tokenizer).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 1}, "data.max_length=1: must be at least 2"),
        ({"micro_batch_size": 0}, "data.micro_batch_size=0: must be at least 1"),
        ({"num_workers": -1}, "data.num_workers=-1: must be at least 0"),
        ({"on_error": "warn"}, "data.on_error=warn: must be one of stop, skip"),
    ],
)
def test_bad_values_name_their_key(tokenizer, options, message):
    with pytest.raises(UserError, match=message):
        RawText(TextOptions(**options), tokenizer=tokenizer)


def test_weights_of_none_are_refused(tokenizer):
    with pytest.raises(UserError, match=r"the weight of a is 0; give a number above 0"):
        RawText(TextOptions(path={"a": 0}), tokenizer=tokenizer).setup()


def test_a_weighted_folder_may_be_named_by_a_number():
    assert [(s.name, s.path, s.weight) for s in weighted_sources({2024: 2}, "x")] == [("2024", "2024", 2.0)]


def test_weighted_sources_have_their_share_of_the_rows(tokenizer, write, sentence, cache):
    paths = [
        write(f"{name}/all.jsonl", [{"text": sentence(n, 60)} for n in range(start, start + 80)])
        for name, start in (("books", 0), ("news", 1000))
    ]
    folders = [str(Path(path).parent) for path in paths]
    data = RawText(
        TextOptions(path=dict(zip(folders, (3, 1), strict=True)), max_length=16, cache_dir=cache), tokenizer=tokenizer
    )
    assert data.source_names == ("books", "news") and len(data.val_dataloader()) == 2
    rows = torch.cat([batch.source[:, 0][(batch.labels != IGNORE).any(1)] for batch in data.train_dataloader()])
    assert (rows == 0).sum().item() in (int(0.75 * len(rows)), int(0.75 * len(rows)) + 1)
    for prefix in (4, 40, len(rows)):
        assert abs((rows[:prefix] == 0).sum().item() - 0.75 * prefix) <= 1
    for index, loader in enumerate(data.val_dataloader()):
        assert {int(i) for batch in loader for i in batch.source.unique()} <= {index, 0}


@given(st.integers(0, 1000), st.lists(st.floats(0.01, 100), min_size=1, max_size=5))
def test_shares_are_exact_and_sum_up(total, weights):
    shares = apportioned(total, weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) < 1 + 1e-6


def test_one_book_is_split_without_overlap_and_opened_again_in_no_time(tokenizer, write, sentence, cache):
    book = "".join(sentence(n) + "\n" * (1 + (n % 9 == 0)) for n in range(15_000))  # 1 MB in one file
    path = write("book.txt", book)
    start = time.process_time()  # of this process alone: the machine may be busy
    data = RawText(TextOptions(path=path, max_length=64, cache_dir=cache), tokenizer=tokenizer)
    data.setup()
    first = time.process_time() - start
    heldout = [document.text for test in data.heldout() for document in test.items]
    training = list(RawText.tokenizer_texts(TextOptions(path=path, cache_dir=cache)))
    assert 0.01 < sum(map(len, heldout)) / len(book) < 0.15
    assert all(text in book for text in heldout)
    assert not set(heldout) & set(training)
    assert sum(map(len, training)) + sum(map(len, heldout)) < len(book) < 1.2 * sum(map(len, training))
    start = time.process_time()
    RawText(TextOptions(path=path, max_length=64, cache_dir=cache), tokenizer=tokenizer).setup()
    assert time.process_time() - start < first / 2


def test_two_corpora_of_one_name_are_told_apart_without_a_path(tokenizer, cache):
    paths = {f"{folder}/corpus.jsonl": 1 for folder in "abc"}
    assert [source.name for source in weighted_sources(paths, "general")] == ["corpus", "corpus_2", "corpus_3"]
    for name in ("../general", "/tmp/general", ""):
        with pytest.raises(UserError, match=f"data.name={name}: a name is needed"):
            RawText(TextOptions(path="a.txt", name=name, cache_dir=cache), tokenizer=tokenizer)
