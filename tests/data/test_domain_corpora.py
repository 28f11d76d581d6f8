"""Continued pretraining's data: all of the domain, and an exact share of what came before."""

from pathlib import Path

import pytest
import torch

from lit_llm.data.domain_corpora import DomainCorpora
from lit_llm.data.options import DomainCorporaOptions
from lit_llm.errors import UserError
from lit_llm.records import IGNORE


@pytest.fixture
def corpora(write, sentence):
    """Folders of a domain (30 texts) and of general text (90), each with its splits; one text is in both."""

    def corpus(name, start, count):
        rows = [{"text": sentence(start + n, 40)} for n in range(count)]
        write(f"{name}/train.jsonl", rows[:-6])
        write(f"{name}/validation.jsonl", rows[-6:-3])
        return str(Path(write(f"{name}/test.jsonl", rows[-3:])).parent)

    # The sentences are made of a few words in turn, so that half of one's runs of words are in others too.
    return {"path": corpus("law", 0, 36), "replay_path": corpus("web", 1000, 96), "decontaminate_words": 0}


def sources_of(loader):
    """The source of every row of an epoch that has a label."""
    return torch.cat([batch.source[:, 0][(batch.labels != IGNORE).any(1)] for batch in loader]).tolist()


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.75])
def test_the_replayed_share_is_exact_and_the_domain_is_seen_once(tokenizer, corpora, cache, ratio):
    data = DomainCorpora(
        DomainCorporaOptions(**corpora, replay_ratio=ratio, max_length=16, cache_dir=cache), tokenizer=tokenizer
    )
    alone = DomainCorpora(
        DomainCorporaOptions(**{**corpora, "replay_path": None}, replay_ratio=0, max_length=16, cache_dir=cache),
        tokenizer=tokenizer,
    )
    domain_rows = len(sources_of(alone.train_dataloader()))
    loader = data.train_dataloader()
    for _ in range(2):
        rows = sources_of(loader)
        assert rows.count(0) == domain_rows
        assert rows.count(1) == round(domain_rows * ratio / (1 - ratio))
        assert data.rows_per_epoch == len(rows) == len(data.samples(10**6))
    for prefix in range(1, len(rows)):
        assert abs(rows[:prefix].count(1) - ratio * prefix) <= 1.5


def test_replay_goes_on_through_the_general_corpus_from_epoch_to_epoch(tokenizer, corpora, cache):
    data = DomainCorpora(
        DomainCorporaOptions(**corpora, replay_ratio=0.4, max_length=16, cache_dir=cache), tokenizer=tokenizer
    )
    domain, general = (len(part) for part in data.prepared.train.parts)
    epochs = [data.prepared.order(epoch).tolist() for epoch in range(4)]
    for order in epochs:
        assert sorted(row for row in order if row < domain) == list(range(domain))
    replayed = [row - domain for order in epochs for row in order if row >= domain]
    assert len(replayed) < general or set(replayed[:general]) == set(range(general))
    assert len(set(replayed[:general])) == len(replayed[:general])


def test_both_sources_are_validated_and_held_out_whatever_is_replayed(tokenizer, corpora, cache):
    data = DomainCorpora(
        DomainCorporaOptions(**corpora, replay_ratio=0, max_length=16, cache_dir=cache), tokenizer=tokenizer
    )
    assert data.source_names == ("domain", "general")
    assert [test.name for test in data.heldout()] == ["domain", "general"]
    first, second = data.val_dataloader()
    assert set(sources_of(first)) == {0} and set(sources_of(second)) == {1}
    assert data.counts()["read"] == 36 and data.counts()["replayed"]["read"] == 96


def test_what_one_corpus_holds_out_the_other_does_not_train(tokenizer, corpora, write, sentence, cache):
    leaked = [{"text": sentence(1000 + 95, 40)}]
    extra = write("more.jsonl", leaked)
    paths = {**corpora, "path": {"train": [str(Path(corpora["path"]) / "train.jsonl"), extra]}}
    data = DomainCorpora(
        DomainCorporaOptions(**paths, max_length=16, cache_dir=cache, test_fraction=0), tokenizer=tokenizer
    )
    assert data.counts()["skipped"] == {"in_heldout": 1}
    assert data.counts()["read"] == data.counts()["used"] + 1
    held = data.heldout()[-1].items
    assert any(item.text == leaked[0]["text"] for item in held)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replay_ratio": 1.0}, "data.replay_ratio=1.0: a share of the rows, from 0 to below 1"),
        ({"replay_ratio": -0.1}, "data.replay_ratio=-0.1"),
        ({"replay_path": None}, "set data.replay_path, or a ratio of 0"),
    ],
)
def test_bad_values_name_their_key(tokenizer, options, message):
    with pytest.raises(UserError, match=message):
        DomainCorpora(DomainCorporaOptions(**options), tokenizer=tokenizer)
