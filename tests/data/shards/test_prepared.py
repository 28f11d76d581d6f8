"""Shards whose bytes are not those that were written train nothing, wherever they lie."""

import shutil

import pytest

from lit_llm.data.options import TextOptions
from lit_llm.data.raw_text import RawText
from lit_llm.errors import UserError
from tests.data.shards.test_corpus import both, check_equal, documents
from tests.data.shards.texts import jsonl, text


@pytest.fixture
def made(tokenizer, tmp_path):
    (tmp_path / "a.jsonl").write_text(jsonl([{"text": text(number)} for number in range(80)]))
    _, data = both(tokenizer, str(tmp_path / "a.jsonl"), tmp_path)
    data.setup()
    return data


def elsewhere(tokenizer, tmp_path, workers=0):
    """A run that has a copy of what was prepared, and no texts."""
    copy = tmp_path / "copy"
    if not copy.exists():
        shutil.copytree(tmp_path / "shards/tokens", copy)
    (told,) = copy.rglob("prepared.json")
    options = TextOptions(path=str(told), cache_dir=str(tmp_path / "other"), max_length=32,
                          micro_batch_size=3, num_workers=workers)  # fmt: skip
    return RawText(options, tokenizer=tokenizer), copy


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def batches(data):
    return [batch.input_ids.tolist() for batch in data.train_dataloader()]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_copy_that_is_damaged_or_cut_ends_the_run_in_one_line(made, tokenizer, tmp_path, workers):
    data, copy = elsewhere(tokenizer, tmp_path, workers)
    assert batches(data) == batches(made)
    file = sorted(copy.rglob("tokens.bin"))[2]
    whole = file.read_bytes()
    for damage in (flip, lambda file: file.write_bytes(whole[:-10]), lambda file: file.unlink()):
        file.write_bytes(whole)
        damage(file)
        data, _ = elsewhere(tokenizer, tmp_path, workers)
        with pytest.raises(UserError, match=r"tokens.bin: (is damaged|cannot be read \(.*\)); copy it again") as raised:
            batches(data)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["prepared.bin", "prepared.jsonl.gz"])
@pytest.mark.usefixtures("made")
def test_a_copy_of_two_preparations_is_refused(tokenizer, tmp_path, name):
    """As where the second one, with other options, was copied while it was written."""
    data, copy = elsewhere(tokenizer, tmp_path)
    (file,) = copy.rglob(name)
    flip(file)
    with pytest.raises(UserError, match=rf"prepared.json: is no prepared corpus \({name} is damaged, or of another"):
        data.setup()


def test_what_is_kept_for_runs_elsewhere_is_written_again_where_it_does_not_fit(made, tokenizer, tmp_path):
    (file,) = (tmp_path / "shards").rglob("prepared.bin")
    flip(file)
    both(tokenizer, str(tmp_path / "a.jsonl"), tmp_path)[1].setup()
    data, _ = elsewhere(tokenizer, tmp_path)
    assert batches(data) == batches(made)


def test_a_bit_that_flips_in_the_cache_is_found_before_its_rows_are_read(made, tokenizer, tmp_path):
    file = sorted((tmp_path / "shards/tokens/shards").rglob("tokens.bin"))[3]
    flip(file)
    _, again = both(tokenizer, str(tmp_path / "a.jsonl"), tmp_path)
    with pytest.raises(UserError, match=r"tokens.bin: is damaged; remove its folder: a new start makes it again"):
        batches(again)
    shutil.rmtree(file.parent)
    assert batches(both(tokenizer, str(tmp_path / "a.jsonl"), tmp_path)[1]) == batches(made)


@pytest.mark.parametrize("name", ["fates.bin", "heldout.jsonl.gz"])
def test_what_is_known_of_a_corpus_is_made_again_where_it_is_damaged(made, tokenizer, tmp_path, name):
    (file,) = (tmp_path / "shards").rglob(name)
    for damage in (flip, lambda file: file.write_bytes(b""), lambda file: file.unlink()):
        damage(file)
        one, again = both(tokenizer, str(tmp_path / "a.jsonl"), tmp_path)
        check_equal(one, again)
        assert documents(again.prepared.train) == documents(made.prepared.train)
