"""A corpus in shards is the corpus in memory: the same texts trained, held out, left out and counted."""

import dataclasses
import gzip
import json
import multiprocessing
import os
import signal
from collections import Counter

import numpy as np
import pytest
import torch

from lit_llm.data import file_rows
from lit_llm.data.domain_corpora import DomainCorpora
from lit_llm.data.options import DomainCorporaOptions, TextOptions
from lit_llm.data.raw_text import RawText
from lit_llm.data.shards import corpus as corpora
from lit_llm.data.shards import fates, making, portions, search
from lit_llm.data.shards.rows import ShardedRows
from lit_llm.errors import UserError
from lit_llm.records import IGNORE
from tests.data.shards.texts import jsonl, text

NUMBER = 160


@pytest.fixture(scope="module")
def rows():
    """Texts, some twice, some with a line of their own to be cleaned; and some that hold others whole."""
    texts = [text(number) for number in range(NUMBER)]
    found = [{"text": one, "source": f"book {n % 3}"} for n, one in enumerate(texts)]
    found += [{"text": texts[n]} for n in range(0, NUMBER, 7)]
    found += [{"text": f"{text(1000 + n, 15)} {texts[n]} {text(2000 + n, 15)}"} for n in range(0, NUMBER, 3)]
    found += [{"text": f"{text(3000 + n)}\r\n{text(4000 + n)}\0"} for n in range(5)] + [{"text": " "}]
    return found


def labels(rows):
    """The labels that a set of rows trains, as a multiset."""
    items = [rows[number] for number in range(len(rows))]
    return Counter(torch.cat([item.labels[item.labels != IGNORE] for item in items]).tolist())


def documents(rows):
    """The documents in a set of rows, put together again from their pieces, as a multiset."""
    found, parts = Counter(), []
    packed = getattr(rows, "parts", [rows])
    for part in packed:
        shards = [part.place(int(end) - 1)[0] for end, size in zip(part._ends, part.sizes, strict=True) if size] if (
            isinstance(part, ShardedRows)) else [part]  # fmt: skip
        for shard in shards:
            plan = shard.plan
            for piece in range(len(plan.document)):
                start, length = int(plan.start[piece]), int(plan.length[piece])
                ids = shard.documents.tokens(int(plan.document[piece]), start, start + length + 1).tolist()
                parts = parts[:-1] + ids if start else ids
                if length + start + 1 == int(shard.documents.lengths[int(plan.document[piece])]):
                    found[tuple(parts)] += 1
    return found


def both(tokenizer, path, tmp_path, kind=RawText, options=TextOptions, **given):
    """The data in memory, and in shards."""
    shared = {"path": path, "max_length": 32, "micro_batch_size": 3, **given}
    in_memory = kind(options(**shared, cache_dir=str(tmp_path / "memory")), tokenizer=tokenizer)
    streamed = {"stream_above": 0, "prepare_workers": 1} | shared
    in_shards = kind(options(**streamed, cache_dir=str(tmp_path / "shards")), tokenizer=tokenizer)
    return in_memory, in_shards


def check_equal(one, other, *, table=True):
    assert documents(one.prepared.train) == documents(other.prepared.train)
    assert labels(one.prepared.train) == labels(other.prepared.train)
    assert one.source_names == other.source_names
    assert not table or one.train_tokens == other.train_tokens  # as many as rows of a replayed source, which differ
    for name, held in one.prepared.validation.items():
        assert labels(held) == labels(other.prepared.validation[name])
    for mine, theirs in zip(one.heldout(), other.heldout(), strict=True):
        assert (mine.name, mine.kind) == (theirs.name, theirs.kind)
        if one.options.deduplicate == "off":  # in memory copies stand together
            assert {(i.text, i.source) for i in mine.items} == {(i.text, i.source) for i in theirs.items}
        else:
            assert mine == theirs and [i.file for i in mine.items] == [i.file for i in theirs.items]
    assert one.counts() == other.counts()
    mine, theirs = one.overview().as_dict(), other.overview().as_dict()
    assert mine == theirs if table else mine["all"]["tokens"] == theirs["all"]["tokens"]
    assert one.files() == other.files()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"deduplicate": "off", "decontaminate_words": 0},
        {"prepare_workers": 2, "decontaminate_share": 0.0, "quality": {"min_words": 30}, "languages": ["all"]},
        {"validation_fraction": 0.3, "test_fraction": 0.0, "clean": False},
    ],
)
def test_a_file_of_lines(tokenizer, tmp_path, rows, given):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(rows))
    one, other = both(tokenizer, str(path), tmp_path, **given)
    check_equal(one, other)
    assert len(other.prepared.train.parts[0].sizes) > 8
    skipped = other.counts()["skipped"]
    assert skipped["empty_text"] == 1
    if not given:
        assert skipped["duplicate"] == len(range(0, NUMBER, 7)) and skipped["decontaminated"] >= 2


def test_what_an_earlier_stage_holds_out_is_not_trained(tokenizer, tmp_path, rows):
    (tmp_path / "before").mkdir()
    (tmp_path / "before/general.jsonl").write_text(jsonl([{"text": text(7001)}, {"text": text(7002)}]))
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl([*rows, {"text": f"{text(1, 9)} {text(7002)}"}, {"text": text(7001)}]))
    one, other = both(tokenizer, str(path), tmp_path, earlier_heldout=[str(tmp_path / "before")], test_fraction=0.0)
    check_equal(one, other)
    assert other.counts()["skipped"]["earlier_heldout"] == 2
    assert "general.jsonl:" in other._first_bad["earlier_heldout"]


def test_files_of_many_kinds_and_splits_of_their_own(tokenizer, tmp_path, rows):
    folder = tmp_path / "corpus"
    (folder / "train").mkdir(parents=True)
    (folder / "train/a.jsonl").write_text(jsonl(rows[:120]))
    (folder / "train/b.jsonl.gz").write_bytes(gzip.compress(jsonl(rows[120:200]).encode()))
    for number in range(200, 215):
        (folder / f"train/{number}.txt").write_text(rows[number]["text"])
    (folder / "train/c.json").write_text(json.dumps([*rows[215:], {"text": text(77)}, {"text": text(78)}]))
    (folder / "validation.jsonl").write_text(jsonl([{"text": text(5)}, {"text": text(9001)}, {"text": text(9002)}]))
    (folder / "test_hard.jsonl").write_text(jsonl([{"text": text(8)}, {"text": text(9003)}]))
    one, other = both(tokenizer, str(folder), tmp_path)
    check_equal(one, other)
    assert other.counts()["skipped"]["in_heldout"] == 2
    shards = other.prepared.train.parts[0]._shards
    assert sum(any("b.jsonl.gz" in file for file in shard.files) for shard in shards) > 1, "a packed file in parts"
    with pytest.raises(UserError) as raised:
        RawText(dataclasses.replace(other.options, path={"train": str(folder / "test_hard.jsonl")}), tokenizer=tokenizer
                ).setup()  # fmt: skip
    assert "tokens to train on are less than one row" in str(raised.value) or "2 texts are too few" in str(raised.value)


def test_bad_rows_are_told_with_file_and_line_as_in_memory(tokenizer, tmp_path, rows):
    bad = ["{", '{"text": 1}', '{"text": "a", "images": 1}', "[]"]
    mixed = [bad[n // 20 % 4] if n % 20 == 7 else row for n, row in enumerate(rows)]
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(mixed))
    said = []
    for data in both(tokenizer, str(path), tmp_path):
        with pytest.raises(UserError) as raised:
            data.setup()
        said.append(str(raised.value))
    assert said[0] == said[1] and "a.jsonl:8" in said[0] and "a.jsonl:68, 148, 228" in said[0]
    assert not list((tmp_path / "shards").rglob("manifest.json"))
    check_equal(*both(tokenizer, str(path), tmp_path, on_error="skip"))
    for data in both(tokenizer, str(path), tmp_path, on_error="skip", max_error_rate=0.01):
        with pytest.raises(UserError, match=rf"of {len(rows)} rows are bad, more than data.max_error_rate=0.01"):
            data.setup()


def test_corpora_are_mixed_in_shards_and_in_memory(tokenizer, tmp_path, rows, monkeypatch):
    large, little = tmp_path / "large.jsonl", tmp_path / "little.jsonl"
    large.write_text(jsonl(rows))
    little.write_text(jsonl([{"text": text(n)} for n in [*range(0, 40, 2), *range(500, 540)]]))

    def both_kinds(**given):
        return both(tokenizer, str(large), tmp_path, DomainCorpora, DomainCorporaOptions, replay_path=str(little),
                    replay_ratio=0.25, **given)  # fmt: skip

    one, other = both_kinds()
    check_equal(one, other, table=False)
    per_epoch = [len(part) for part in other.prepared.train.parts]
    order = other.prepared.order(0)
    taken = order[: len(order)]
    assert sorted(taken[taken < per_epoch[0]].tolist()) == list(range(per_epoch[0])) and len(taken) > per_epoch[0]
    # The large one alone in shards: the size of the files decides.
    monkeypatch.setattr(portions, "PORTION", 2**18)
    (tmp_path / "large.jsonl").write_text(jsonl(rows * 16))
    one, other = both_kinds(stream_above=1)
    check_equal(one, other, table=False)
    assert [isinstance(part, ShardedRows) for part in other.prepared.train.parts] == [True, False]


def test_what_a_hash_holds_out_of_much_is_what_has_the_smallest(tokenizer, tmp_path, rows, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(rows))
    given = {"validation_fraction": 0.3, "test_fraction": 0.3, "decontaminate_words": 0}
    whole, _ = both(tokenizer, str(path), tmp_path, **given)
    monkeypatch.setattr(fates, "MOST_HELD_OUT", 3000)
    _, cut = both(tokenizer, str(path), tmp_path, **given)
    (all_of_it,), (some,) = whole.heldout(), cut.heldout()
    by_hash = sorted(all_of_it.items, key=lambda one: fates_share(one))
    sizes = np.cumsum([len(one.text) for one in by_hash])
    assert {one.text for one in some.items} == {one.text for one in by_hash[: int((sizes <= 3000).sum())]}
    assert cut.counts() == whole.counts() and len(some.items) < len(all_of_it.items)


def fates_share(document):
    from lit_llm.data.filters import content_key, share

    return share(content_key(document))


def test_the_first_run_makes_it_and_others_find_it(tokenizer, tmp_path, rows, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(rows))
    _, first = both(tokenizer, str(path), tmp_path)
    first.setup()
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "shards/tokens/shards").rglob("*.*")}

    def none(*_):
        raise AssertionError("it is read again")

    with monkeypatch.context() as patch:
        patch.setattr(making.Writer, "__init__", none)
        patch.setattr("lit_llm.data.shards.making.rows_of", none)
        patch.setattr("lit_llm.data.shards.search.rows_of", none)
        _, again = both(tokenizer, str(path), tmp_path)
        check_equal(first, again)
        assert again.fingerprint() == first.fingerprint()
    # One more row: the shards of all parts but the last are taken over.
    path.write_text(jsonl([*rows, {"text": text(8888)}]))
    memory, more = both(tokenizer, str(path), tmp_path)
    check_equal(memory, more)
    assert more.fingerprint() != first.fingerprint()
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "shards/tokens/shards").rglob("*.*")}
    assert made.items() <= after.items() and len(after) - len(made) <= 8


def test_a_damaged_shard_is_made_again(tokenizer, tmp_path, rows):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(rows))
    _, first = both(tokenizer, str(path), tmp_path)
    wanted = documents(first.prepared.train)
    shards = sorted((tmp_path / "shards/tokens/shards").rglob("tokens.bin"))
    data = bytearray(shards[2].read_bytes())
    data[10] ^= 1
    shards[2].write_bytes(data)
    shards[4].write_bytes(b"")
    (shards[6].parent / "shard.json").unlink()
    _, again = both(tokenizer, str(path), tmp_path)
    assert documents(again.prepared.train) == wanted


def _killed(tokenizer, path, cache, when):
    """The preparation of a corpus that is killed in the middle of the tokens, or of the search in them."""
    place, after = (corpora, 5) if when == "tokens" else (search, 4)

    class Bar(place.Bar):
        told = 0

        def update(self, n=1):  # noqa: ARG002
            Bar.told += 1
            if Bar.told == after:
                os.kill(os.getpid(), signal.SIGKILL)

    place.Bar = Bar
    options = TextOptions(path=str(path), cache_dir=str(cache), max_length=32, stream_above=0, prepare_workers=2)
    RawText(options, tokenizer=tokenizer).setup()


@pytest.mark.parametrize("when", ["tokens", pytest.param("search", marks=pytest.mark.slow)])
def test_killed_in_the_middle_it_goes_on_and_repeats_no_shard(tokenizer, tmp_path, rows, when):
    path, cache = tmp_path / "a.jsonl", tmp_path / "shards"
    path.write_text(jsonl(rows))
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tokenizer, path, cache, when))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    pattern = "tokens.bin" if when == "tokens" else "*.npz"
    done = {file: file.stat().st_mtime_ns for file in cache.rglob(pattern) if ".unfinished-" not in str(file)}
    assert 3 <= len(done) < 16
    seen = {}
    one, other = both(tokenizer, str(path), tmp_path, prepare_workers=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # what was found stays to be looked at
        check_equal(one, other)
        seen = {file: file.stat().st_mtime_ns for file in cache.rglob(pattern) if ".unfinished-" not in str(file)}
    assert done.items() <= seen.items() and len(seen) > len(done)


def test_pieces_of_one_line_are_told_apart_when_they_are_read_again(tokenizer, tmp_path, monkeypatch):
    """A text without line ends: what is left out, held out and searched all begins in line 1."""
    monkeypatch.setattr(portions, "LONG_TEXT", 4096)
    for module in (file_rows, portions):
        monkeypatch.setattr(module, "PIECE", 300)
    (tmp_path / "before.jsonl").write_text(jsonl([{"text": f"held {text(3, 12)} out"}]))
    held = f"held {text(3, 12)} out"
    words = " ".join(f"{text(n, 30)} {held if n % 20 == 5 else ''}" for n in range(200))
    (tmp_path / "a.txt").write_text(f"{words} {'1 ' * 600}")
    _, data = both(tokenizer, str(tmp_path / "a.txt"), tmp_path, prepare_workers=2, test_fraction=0.0,
                   decontaminate=[str(tmp_path / "before.jsonl")], quality={"min_alphabetic_words": 0.5})  # fmt: skip
    skipped = data.counts()["skipped"]
    assert 5 <= skipped["decontaminated"] <= 10 and skipped["quality_min_alphabetic_words"] > 1
    trained = [tokenizer.decode(list(item)) for item in documents(data.prepared.train)]
    assert not any(held in one for one in trained) and sum(text(100, 30)[:40] in one for one in trained) == 1


def test_a_file_that_changes_between_the_two_readings_is_named(tokenizer, tmp_path, rows, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(rows))
    _, data = both(tokenizer, str(path), tmp_path)
    inner = search.rows_of
    with monkeypatch.context() as patch:
        patch.setattr(search, "rows_of", lambda *given: (row for row in inner(*given) if not 9 <= row.line < 12))
        with pytest.raises(
            UserError, match=r"a.jsonl: is not what it was when its tokens were made \(\d+ of \d+ texts"
        ):
            data.setup()


def _prepare(tokenizer, options, log):
    inner = making.make

    def logged(maker, task):
        made = inner(maker, task)
        with log.open("a") as file:
            file.write(f"{task.number} {len(made.shards) - made.reused}\n")
        return made

    corpora.make = logged
    RawText(options, tokenizer=tokenizer).setup()
    os._exit(0)


def test_two_runs_at_once_do_the_work_once(tokenizer, tmp_path, rows):
    path, log = tmp_path / "a.jsonl", tmp_path / "log"
    path.write_text(jsonl(rows))
    options = TextOptions(
        path=str(path), cache_dir=str(tmp_path / "c"), max_length=32, stream_above=0, prepare_workers=1
    )
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=_prepare, args=(tokenizer, options, log)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    numbers = [line.split() for line in log.read_text().splitlines()]
    assert len(numbers) > 8 and len({number for number, _ in numbers}) == len(numbers)


def test_the_tokenizer_learns_from_texts_that_are_not_held_out(tokenizer, tmp_path, rows):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(rows))
    _, data = both(tokenizer, str(path), tmp_path, validation_fraction=0.2, test_fraction=0.2)
    held = {item.text for one in data.heldout() for item in one.items}
    texts = list(RawText.tokenizer_texts(data.options))
    assert len(texts) > 20 and not held & set(texts)
    assert texts == list(RawText.tokenizer_texts(data.options))


def test_what_needs_all_texts_in_memory_is_refused_in_a_line(tokenizer, tmp_path, rows):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(rows))
    _, data = both(tokenizer, str(path), tmp_path, deduplicate="near")
    with pytest.raises(UserError, match=r"deduplicate=near: compares all texts in memory, and .*stream_above=0"):
        data.setup()
    path.write_text(jsonl(rows[:12]))
    _, data = both(tokenizer, str(path), tmp_path)
    with pytest.raises(UserError, match=r"12 texts are too few to hold some out; .*data.stream_above"):
        data.setup()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_for_any_number_of_processes_and_after_a_stop(tokenizer, tmp_path, rows, workers):
    path = tmp_path / "a.jsonl"
    path.write_text(jsonl(rows))
    _, data = both(tokenizer, str(path), tmp_path, num_workers=workers)
    whole = [batch.input_ids.tolist() for batch in data.train_dataloader()]
    _, plain = both(tokenizer, str(path), tmp_path)
    assert whole == [batch.input_ids.tolist() for batch in plain.train_dataloader()]
    stopped = data.train_dataloader()
    given = [batch.input_ids.tolist() for _, batch in zip(range(4), stopped, strict=False)]
    resumed = plain.train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    assert given + [batch.input_ids.tolist() for batch in resumed] == whole
    assert data.samples(2) == plain.samples(2) and data.samples(1)[0]
