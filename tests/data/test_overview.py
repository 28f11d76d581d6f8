"""The table of the data: counted by kind of file, in words or characters, loud where much is not read."""

import gzip
import json
import random
import re
import tracemalloc

import pytest

from lit_llm.data.domain_corpora import DomainCorpora
from lit_llm.data.file_rows import Row
from lit_llm.data.instructions import Instructions
from lit_llm.data.labelled_answers import LabelledAnswers
from lit_llm.data.options import (
    DataOptions,
    DomainCorporaOptions,
    InstructionsOptions,
    LabelledAnswersOptions,
    PreferencesOptions,
    PromptsOptions,
    TextOptions,
)
from lit_llm.data.overview import SLICE, OfKind, Overview, words_in
from lit_llm.data.preferences import Preferences
from lit_llm.data.prompts import Prompts
from lit_llm.data.raw_text import RawText
from lit_llm.data.reading import read_records
from lit_llm.data.samples import FIRST, LAST, Part, isolated, shown
from lit_llm.records import Document


def folder_of(path, sentence):
    path.mkdir()
    rows = [{"text": sentence(n)} for n in range(40)]
    (path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0], {"text": " "}]))
    (path / "b.csv").write_text("text\n" + "".join(f'"{sentence(n)}"\n' for n in range(40, 60)))
    (path / "c.txt").write_text("房子有七扇窗户。" * 20)
    for name in ("README.md", "x.pickle", "y.yaml"):
        (path / name).write_text("a")
    return str(path)


def test_what_is_read_is_counted_by_kind(tmp_path, tokenizer, sentence, cache):
    path = folder_of(tmp_path / "corpus", sentence)
    data = RawText(TextOptions(path=path, cache_dir=cache, max_length=16), tokenizer=tokenizer)
    kinds = data.overview().kinds
    texts = {".jsonl": [sentence(n) for n in range(40)], ".csv": [sentence(n) for n in range(40, 60)]}
    for kind, members in texts.items():
        held = {item.text for item in data.heldout()[0].items} & set(members)
        one = kinds[kind]
        assert (one.used, one.words) == (len(members), sum(len(text.split()) for text in members))
        assert one.characters == sum(map(len, members)) == one.size
        assert one.heldout >= sum(map(len, held))
        assert not one.in_characters
        trained = [text for text in members if text not in held]
        extra = len(tokenizer.beginning) + 1
        assert one.tokens == sum(len(tokenizer.encode(text)) + extra for text in trained)
    assert (kinds[".jsonl"].rows, kinds[".jsonl"].duplicates) == (42, 1)
    assert kinds[".jsonl"].skipped == {"duplicate": 1, "empty_text": 1}
    assert kinds[".txt"].in_characters and kinds[".txt"].characters == 160
    assert {kind: dict(one.unread) for kind, one in kinds.items() if one.unread} == {
        ".md": {"tells of data": 1}, ".pickle": {"no rows of text": 1}, ".yaml": {"settings": 1},
    }  # fmt: skip
    lines = data.overview().lines(data.left_out_later())
    assert [line.split()[0] for line in lines[:8]] == [
        "files",
        ".jsonl",
        ".csv",
        ".txt",
        ".md",
        ".pickle",
        ".yaml",
        "all",
    ]
    assert len({len(line) for line in lines[1:4]}) <= 2
    assert "160 characters" in lines[3]
    assert "  .jsonl: rows left out: 1 duplicate, 1 empty_text".strip() in lines
    assert data.overview().warnings() == ["40% OF THE FILES ARE NOT READ: 2 of 5 (1 .pickle, 1 .yaml)"]
    plain = data.overview().as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["all"]["used"] == 61 == data.counts()["used"]


def test_damaged_files_among_good_ones_are_no_files_that_are_read(tmp_path):
    for number in range(10):
        whole = json.dumps([{"text": f"file {number}, text {n}"} for n in range(300)])
        (tmp_path / f"{number}.json").write_text(whole if number % 2 else whole[:-40])
    counts = read_records(str(tmp_path), "texts", DataOptions(on_error="skip")).counts
    one = counts.overview.kinds[".json"]
    assert (len(one.files), one.rows, one.used, one.skipped) == (5, 1500, 1500, {})
    assert one.unread == counts.skipped == {"malformed_json": 5}
    assert counts.overview.warnings() == ["50% OF THE FILES ARE NOT READ: 5 of 10 (5 .json)"]
    lines = counts.overview.lines()
    assert lines[1].split()[:5] == [".json", "5", "of", "10", "1,500"]
    assert lines[-2] == ".json: files not read: 5 (malformed_json)"
    assert lines[-1].startswith("bad, malformed_json 5: ") and " and 2 more: " in lines[-1]


def test_what_can_be_done_about_files_that_are_not_read_is_said(tmp_path):
    for name in ("a.txt", "b.pickle", "c.log", "d.yaml"):
        (tmp_path / name).write_text("a text")
    lines = read_records(str(tmp_path), "texts").counts.overview.lines()
    assert ".pickle: files not read: 1 (no rows of text; save them as .jsonl)" in lines
    assert ".log: files not read: 1 (an unknown kind; rename it to .txt if it is text)" in lines
    assert ".yaml: files not read: 1 (settings; save rows as .jsonl)" in lines


def test_text_that_is_replayed_does_not_thin_out_what_is_said_of_the_data(tmp_path, tokenizer, sentence, cache):
    domain, general = tmp_path / "domain", tmp_path / "general"
    domain.mkdir()
    general.mkdir()
    good = [{"text": sentence(n)} for n in range(30)]
    lines = [json.dumps(row) for row in good] + ["{"] * 6
    (domain / "a.jsonl").write_text("\n".join(lines))
    for name in ("b.doc", "c.yaml"):
        (domain / name).write_text("a")
    rows = [{"text": sentence(n)} for n in range(100, 500)]
    (general / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    both = {"cache_dir": cache, "max_length": 16, "on_error": "skip", "validation_fraction": 0.1}
    alone = RawText(TextOptions(path=str(domain), **both), tokenizer=tokenizer)
    options = DomainCorporaOptions(path=str(domain), replay_path=str(general), replay_ratio=0.25, **both)
    data = DomainCorpora(options, tokenizer=tokenizer)
    one, other = data.overview(), alone.overview()
    assert one.kinds == other.kinds and one.warnings() == other.warnings() != []
    assert any("6 of 36" in line for line in one.warnings()) and any("2 of 3" in line for line in one.warnings())
    assert data.dropped_shares() == alone.dropped_shares() and data.dropped_shares()["malformed_json"] == 6 / 36
    replayed = one.beside["data.replay_path"].whole
    assert (replayed.rows, replayed.used) == (400, 400) and replayed.tokens and 0 < replayed.heldout_share < 0.5
    counts = data.counts()
    assert counts.pop("replayed") == {"read": 400, "used": 400, "skipped": {}} and counts == alone.counts()
    table = one.lines(data.left_out_later())
    assert [line.split()[0] for line in table[:6]] == ["files", ".jsonl", ".doc", ".yaml", "all", "data.replay_path"]
    assert table[5].split()[1:6] == ["1", "of", "1", "400", "400"]
    assert one.as_dict()["beside"]["data.replay_path"]["all"]["rows"] == 400
    quarter = data.epoch_in_words()
    trained, again = map(int, re.search(r"(\d+) packed rows .* (\d+) of them replayed", quarter).groups())
    assert again == round((trained - again) / 3)


def test_before_anything_is_known_of_tokens_the_table_has_no_columns_of_noughts():
    overview = Overview({".txt": OfKind(files={"a.txt"}, rows=4, used=3, words=9)})
    assert overview.lines()[0].split() == ["files", "read", "rows", "used", "words"]
    overview.kinds[".txt"].tokens = 12
    assert overview.lines()[0].split() == ["files", "read", "rows", "used", "words", "tokens", "held", "out"]


def test_a_file_that_breaks_off_is_read_in_part_and_that_is_loud(tmp_path, tokenizer, sentence, cache):
    letters = random.Random(0)
    rows = [{"text": f"{sentence(n)} {letters.randbytes(8_000).hex()}"} for n in range(400)]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) * 3 // 4])
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "whole"}) + "\n")
    options = TextOptions(path=str(tmp_path), on_error="skip", cache_dir=cache, max_length=16)
    data = RawText(options, tokenizer=tokenizer)
    one = data.overview().kinds[".jsonl"]
    assert (len(one.files), one.unread, one.broken_off) == (2, {}, {"damaged_file": 1}) and one.used > 50
    assert ".jsonl: files read in part: 1 (damaged_file)" in data.overview().lines(data.left_out_later())
    assert data.overview().warnings() == ["1 of 2 FILES IS READ IN PART, and its end is lost (1 damaged_file)"]
    assert data.left_out_later() == {} and one.as_dict()["broken_off"] == {"damaged_file": 1}


def test_documents_with_a_colon_in_a_heading_are_held_out_and_have_tokens(tmp_path, tokenizer, sentence, cache):
    """Two documents are held out in blocks, whose sources name their headings."""
    laws = "".join(
        f"<h1>Book {n}: the law of {n}</h1><p>{' '.join(sentence(k) for k in range(n * 60, n * 60 + 60))}</p>"
        for n in range(8)
    )
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "book.html").write_text(f"<html><body><main>{laws}</main></body></html>")
    (folder / "plain.txt").write_text("\n\n".join(f"Note: {sentence(n)}" for n in range(600, 900)))
    options = TextOptions(path=str(folder), cache_dir=cache, max_length=16, validation_fraction=0.2)
    data = RawText(options, tokenizer=tokenizer)
    assert any("book.html:Book" in item.source or ": the law" in item.source for item in data.heldout()[0].items)
    for kind in (".html", ".txt"):
        one = data.overview().kinds[kind]
        assert one.size > 0.9 * one.characters and 0 < one.heldout < one.size and one.tokens > 0, kind
    assert data.overview().whole.size == sum(
        len(item.text) for split in data._read(str(folder), "texts").splits.values() for item in split
    )


def test_the_file_of_a_record_is_none_of_its_contents(write):
    from dataclasses import replace

    from lit_llm.evaluation.evaluator import set_hash
    from lit_llm.records import Heldout

    whole = DataOptions(validation_fraction=0, test_fraction=0)
    [record] = read_records(write("a.jsonl", [{"text": "one"}]), "texts", whole)["train"]
    assert record.file.endswith("a.jsonl") and record == replace(record, file="") == Document("one", record.source)
    sets = [Heldout("x", "documents", (one,)) for one in (record, replace(record, file=""))]
    assert set_hash(sets[0]) == set_hash(sets[1])


def test_dropped_passages_and_altered_places_reach_the_counts(tmp_path, tokenizer, cache):
    rng = random.Random(11)
    words = [f"w{n}" for n in range(500)]
    chorus = " ".join(rng.choices(words, k=1500))
    text = "".join(f"{' '.join(rng.choices(words, k=rng.randint(1000, 1500)))}\r\n{chorus}\r\n" for _ in range(8))
    (tmp_path / "a.txt").write_bytes(text.encode())
    options = TextOptions(path=str(tmp_path), cache_dir=cache, max_length=64)
    data = RawText(options, tokenizer=tokenizer)
    altered = data.counts()["altered"]
    overview = data.overview()
    assert altered["held_out_passages"] == overview.passages.number > 0
    assert altered["line_ends"] == text.count("\r\n")
    number, left, whole = altered["held_out_passages"], overview.whole, text.replace("\r\n", "\n")
    told = "passage dropped, since it holds" if number == 1 else "passages dropped, since they hold"
    [line] = [line for line in overview.lines(data.left_out_later()) if f"{number:,} {told} held-out text" in line]
    # what is counted is what is trained or held out, by the records themselves
    splits = data._read(str(tmp_path / "a.txt"), "texts").splits
    kept = [one.text for some in splits.values() for one in some]
    assert left.characters == sum(map(len, kept)) < 0.9 * len(whole)
    assert abs(left.words - sum(len(one.split()) for one in kept)) <= len(kept)
    share = 1 - left.characters / len(whole)
    assert line.endswith(f": {share:.1%} of the text, not counted above")
    [loud] = overview.warnings()
    assert loud.startswith(f"{share:.0%} OF THE TEXT IS DROPPED") and "a.txt, which loses " in loud
    assert loud.endswith("data.decontaminate_words=0 keeps it")
    told = overview.as_dict()["dropped_passages"]
    assert told["share"] == pytest.approx(share, abs=1e-6) and list(told["files"].values()) == [told["share"]]
    assert told["characters"] + left.characters == len(whole)


def test_one_long_word_that_is_cut_into_passages_has_no_negative_words():
    whole = Document("x" * 5000, "a.txt:1", file="a.txt")
    overview = Overview()
    overview.use(Row(whole.text, "a.txt", 1), whole)
    overview.drop_passages(whole, ["x" * 400, "x" * 400], 4200)
    assert (overview.whole.words, overview.whole.characters) == (2, 800)
    assert overview.passages.share(800) == pytest.approx(0.84)


def test_words_are_counted_without_a_list_of_them():
    text = "one two\u2003three\n four\x1cfive " * 30_000 + "end"
    blanks = "".join(random.Random(1).choices([chr(code) for code in range(128)] + [" ", "\t", "\x1c"] * 20, k=5000))
    assert words_in(blanks) == len(blanks.split()) > 100
    assert words_in(text) == len(text.split()) and words_in("") == words_in("  \n") == 0
    assert words_in("a" * (2 * SLICE + 5)) == 1 and words_in("a" * SLICE + " b") == 2
    tracemalloc.start()
    words_in(text)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * 2**20 < 50 * 150_000


def test_rows_that_are_not_read_are_loud_above_a_tenth():
    overview = Overview()
    for number in range(20):
        one = overview.of("a.jsonl")
        one.rows += 1
        if number < 2:
            one.skipped["malformed_json"] += 1
    overview.of("a.jsonl").files.add("a.jsonl")
    overview.of("a.jsonl").skipped["duplicate"] += 10
    assert overview.warnings() == []
    overview.of("a.jsonl").skipped["unknown_key"] += 1
    assert overview.warnings() == ["15% OF THE ROWS ARE NOT READ: 3 of 20 (2 malformed_json, 1 unknown_key)"]


def test_what_a_held_out_part_has_too_is_taken_off_its_kind(write):
    rows = [{"text": f"one two {n}"} for n in range(30)]
    path = {"train": [write("a.jsonl", rows), write("b.ndjson", rows[:9])], "test": write("c.jsonl", rows[:3])}
    counts = read_records(path, "texts").counts
    kinds = counts.overview.kinds
    assert counts.skipped == {"duplicate": 9, "in_heldout": 3}
    assert (kinds[".jsonl"].rows, kinds[".jsonl"].used, kinds[".ndjson"].used) == (33, 30, 0)
    assert kinds[".jsonl"].skipped == {"in_heldout": 3} and kinds[".jsonl"].words == 3 * 30
    assert kinds[".jsonl"].characters == sum(len(row["text"]) for row in rows)


def test_languages_have_a_column_where_somebody_filled_them():
    overview = Overview({".txt": OfKind(files={"a.txt"}, rows=4, used=4, words=9)})
    assert "languages" not in overview.lines()[0]
    overview.kinds[".txt"].languages.update({"ar": 3, "en": 1})
    assert overview.lines()[0].endswith("languages") and overview.lines()[1].endswith("ar 75%, en 25%")
    assert overview.as_dict()["kinds"][".txt"]["languages"] == {"ar": 3, "en": 1}


def test_what_is_left_out_after_reading_is_said(tokenizer, write, cache):
    rows = [{"prompt": f"q {n}", "completion": "a " * (200 if n < 3 else 2)} for n in range(30)]
    file = write("a.jsonl", rows)
    data = Instructions(InstructionsOptions(path=file, max_length=64, cache_dir=cache), tokenizer=tokenizer)
    later = data.left_out_later()
    assert later == {"too_long": data.counts()["skipped"]["too_long"]}
    assert data.overview().lines(later)[-1] == f"then left out: {later['too_long']} too_long"
    before = data.overview().as_dict()
    data.training_answers()  # reads again
    assert data.overview().as_dict() == before


PAIRS = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(30)]
KINDS = {
    "examples": (Instructions, InstructionsOptions, [{"prompt": f"q{n}", "completion": f"من {n}"} for n in range(30)]),
    "comparisons": (Preferences, PreferencesOptions, PAIRS),
    "labels": (LabelledAnswers, LabelledAnswersOptions, PAIRS),
    "prompts": (Prompts, PromptsOptions, [{"prompt": f"q{n}"} for n in range(30)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_every_kind_of_data_are_those_of_its_rows(tokenizer, write, cache, kind):
    module, options, rows = KINDS[kind]
    file = [write("a.jsonl", rows[:20]), write("b.ndjson", rows[20:])]
    data = module(options(path=file, cache_dir=cache), tokenizer=tokenizer)
    kinds = data.overview().kinds
    assert {name: one.rows for name, one in kinds.items()}.keys() == {".jsonl", ".ndjson"}
    held = {item.source for one in data.heldout() for item in one.items}
    from lit_llm.data.label_formats import LabelsOfRankings

    expand = LabelsOfRankings("desirable", None, 1) if kind == "labels" else None
    records = read_records(file, kind, data.options, expand=expand)
    wanted = 0
    for record in [*records["train"], *records["validation"]]:
        assert record.source not in held
        if kind == "examples":
            _, mask = tokenizer.encode_chat(record.messages)
            wanted += max(n for n, trained in enumerate(mask) if trained) + 1
            continue
        wanted += len(tokenizer.encode_prompt(record.messages if kind == "prompts" else record.prompt))
        texts = getattr(record, "completions", None) or [getattr(record, "completion", None)]
        wanted += sum(len(tokenizer.encode_completion(text)) for text in texts if text is not None)
    assert sum(one.tokens for one in kinds.values()) == wanted


def test_samples_show_the_template_and_mark_what_is_trained(tokenizer, write, cache):
    rows = [{"prompt": f"q{n}", "completion": f"answer من {n}"} for n in range(30)]
    file = write("a.jsonl", rows)
    options = InstructionsOptions(path=file, cache_dir=cache, packing=False, validation_fraction=0, test_fraction=0)
    data = Instructions(options, tokenizer=tokenizer)
    first, second, third = data.samples(3)
    number = int(data.prepared.order(0)[0])
    ids, mask = tokenizer.encode_chat(data._read(file, "examples")["train"][number].messages)
    last = max(n for n, trained in enumerate(mask) if trained)
    assert "".join(part.text for part in first) == tokenizer.decode(ids[: last + 1], skip_special=False)
    [trained] = [part.text for part in first if part.trained]
    assert trained.split("<")[0].strip() == f"answer من {number}"
    assert first != second != third
    assert f"[[{FIRST}{trained.splitlines()[0]}" in shown(first, colours=False)
    assert "\x1b[32m" in shown(first, colours=True) and "[[" not in shown(first, colours=True)


def test_samples_of_text_show_the_borders_and_of_comparisons_the_ranks(tokenizer, sentence, write, cache):
    file = write("a.jsonl", [{"text": sentence(n)} for n in range(60)])
    data = RawText(TextOptions(path=file, cache_dir=cache, max_length=64), tokenizer=tokenizer)
    borders = [part.text for parts in data.samples(3) for part in parts if part.border]
    assert "next document" in borders
    assert any("goes on from the row before" in text for text in borders)
    pairs = Preferences(PreferencesOptions(path=write("b.jsonl", PAIRS), cache_dir=cache), tokenizer=tokenizer)
    told = shown(pairs.samples(1)[0], colours=False)
    assert told.index("---- rank 1 ----") < told.index("good ") < told.index("---- rank 2 ----") < told.index("bad ")
    labels = LabelledAnswers(LabelledAnswersOptions(path=write("b.jsonl", PAIRS), cache_dir=cache), tokenizer=tokenizer)
    assert {part.text for parts in labels.samples(20) for part in parts if part.border} == {"good", "bad"}


def test_long_samples_are_cut_and_other_scripts_are_isolated_by_line():
    told = shown([Part("a" * 30), Part("b" * 10, trained=True)], colours=False, longest=25)
    assert told == "a" * 25 + "\n---- ... the first 25 characters ----\n"
    assert isolated("one\nمن two\n") == f"one\n{FIRST}من two{LAST}\n"
