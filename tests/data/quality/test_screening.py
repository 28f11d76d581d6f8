"""What is left out when data is read: every row is counted by reason, and what is held out is not trained."""

import json
import random
from dataclasses import replace

import pytest

from lit_llm.data.instructions import Instructions
from lit_llm.data.options import DataOptions, InstructionsOptions, TextOptions
from lit_llm.data.quality import named_sets
from lit_llm.data.quality.named_sets import named_items
from lit_llm.data.quality.screening import Screening, screening_of
from lit_llm.data.quality.text_of import texts_of as texts_said
from lit_llm.data.raw_text import RawText
from lit_llm.data.reading import read_records
from lit_llm.errors import UserError
from lit_llm.evaluation.sets import write_heldout
from lit_llm.records import Comparison, Document, Example, Heldout, Message, Prompt

RNG = random.Random(3)
WORDS = [f"w{n}" for n in range(4000)]


def drawn(count):
    return " ".join(RNG.choices(WORDS, k=count))


def lines(folder, rows, name="data.jsonl"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def read(path, kind="texts", **options):
    got = read_records(path, kind, screening=Screening(**options))
    counts = got.counts
    assert counts.read == counts.used + sum(counts.skipped.values())
    assert counts.used == sum(map(len, got.splits.values()))
    assert all(counts.first[reason] for reason in counts.skipped if reason != "in_heldout")
    return got


def texts_of(got, split="train"):
    return [record.text for record in got[split]]


def test_near_duplicates_keep_the_longest_and_never_stand_on_both_sides(tmp_path):
    own = [drawn(60) for _ in range(200)]
    copies = [f"{text} and more" for text in own[:80]]
    file = lines(tmp_path, [{"text": text} for text in [*own, *copies]])
    assert read(file, decontaminate_words=0).counts.skipped == {}
    got = read(file, deduplicate="near")
    assert dict(got.counts.skipped) == {"near_duplicate": 80}
    assert "says nearly the same as" in got.counts.first["near_duplicate"]
    every = {text for split in got.splits for text in texts_of(got, split)}
    assert every == {*copies, *own[80:]}
    other = read(lines(tmp_path, [{"text": text} for text in [*copies, *own][::-1]], "b.jsonl"), deduplicate="near")
    for split in ("train", "validation", "test"):
        assert set(texts_of(other, split)) == set(texts_of(got, split))


def test_off_keeps_exact_duplicates(tmp_path):
    file = lines(tmp_path, [{"text": text} for text in [drawn(9)] * 5 + [drawn(9) for _ in range(20)]])
    assert read(file).counts.skipped["duplicate"] == 4
    assert read(file, deduplicate="off", decontaminate_words=0).counts.used == 25


def test_near_duplicates_of_named_held_out_rows_are_not_trained(tmp_path):
    held = drawn(50)
    copies = [{"text": f"{held} {n}"} for n in range(40)]
    rows = [{"text": f"so: {held}"}, *copies, *({"text": drawn(50)} for _ in range(30))]
    lines(tmp_path, rows, "d/train.jsonl")
    lines(tmp_path, [{"text": held}], "d/test.jsonl")
    got = read(str(tmp_path / "d"), deduplicate="near")
    assert dict(got.counts.skipped) == {"near_heldout": 41} and "test.jsonl:1" in got.counts.first["near_heldout"]
    assert texts_of(got, "test") == [held]


def test_prompts_that_are_nearly_the_same_stay_together(tmp_path):
    asked = [drawn(40) for _ in range(120)]
    rows = [
        {"prompt": f"{text}{end}", "chosen": f"yes {n}", "rejected": "no"}
        for n, text in enumerate(asked)
        for end in ("", " please", " now")
    ]
    got = read(lines(tmp_path, rows), "comparisons", deduplicate="near")
    assert got.counts.used == 360  # judgements are facts of their own
    homes = {}
    for split, members in got.splits.items():
        for one in members:
            homes.setdefault(" ".join(one.prompt[0].content.split()[:40]), set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values()) and len(got["test"]) > 0


def test_a_planted_held_out_text_is_dropped_by_default(tmp_path):
    held = [drawn(40) for _ in range(5)]
    rows = [{"text": drawn(80)} for _ in range(60)]
    rows[7]["text"] += f" {held[2].upper()} {drawn(10)}"
    lines(tmp_path, rows, "d/train.jsonl")
    lines(tmp_path, [{"text": text} for text in held], "d/validation.jsonl")
    got = read(str(tmp_path / "d"), cache_dir=tmp_path / "cache")
    assert dict(got.counts.skipped) == {"decontaminated": 1}
    assert got.counts.first["decontaminated"].endswith("train.jsonl:8: holds what is held out, "
        f"{tmp_path / 'd/validation.jsonl'}:3")  # fmt: skip
    assert rows[7]["text"] not in texts_of(got)
    assert read(str(tmp_path / "d"), decontaminate_words=0).counts.skipped == {}
    (remembered,) = (tmp_path / "cache" / "quality").iterdir()
    assert json.loads(remembered.read_text()) == [[7, 2]]
    assert texts_of(read(str(tmp_path / "d"), cache_dir=tmp_path / "cache")) == texts_of(got)
    remembered.write_text("[[")  # a file that is not whole is made anew
    assert texts_of(read(str(tmp_path / "d"), cache_dir=tmp_path / "cache")) == texts_of(got)


def test_where_nothing_would_be_left_it_is_an_error(tmp_path):
    held = drawn(40)
    lines(tmp_path, [{"text": f"{held} {drawn(9)}"} for _ in range(25)], "d/train.jsonl")
    lines(tmp_path, [{"text": held}], "d/test.jsonl")
    told = (
        r"no row is left to train on of 25 \(\d+ decontaminated: .*decontaminate_words=0.*; the first: .*train.jsonl:"
    )
    with pytest.raises(UserError, match=told):
        read(str(tmp_path / "d"))
    book, copy = tmp_path / "a.txt", tmp_path / "b.txt"
    book.write_text(drawn(900))
    copy.write_text(book.read_text())
    told = r"no row is left to train on of 1 \(1 in_heldout: .*\); the first: .*a.txt:1: a held-out row has its text"
    for fractions in ({}, {"validation_fraction": 0}):
        with pytest.raises(UserError, match=told):
            read_records({"train": str(book), "test": str(copy)}, "texts", DataOptions(**fractions))


def test_a_chain_of_near_duplicates_stands_on_one_side_of_a_split(tmp_path):
    rows = []
    for _ in range(60):  # of each chain, each is like its neighbours and unlike those behind them
        base = drawn(160).split()
        rows += [{"prompt": " ".join(base[at : at + 100]), "completion": drawn(40)} for at in (0, 8, 16, 24, 32)]
    got = read(lines(tmp_path, rows), "examples", deduplicate="near", decontaminate_words=0)
    line = {row["prompt"]: number // 5 for number, row in enumerate(rows)}
    homes = {}
    for split, members in got.splits.items():
        for one in members:
            homes.setdefault(line[one.messages[0].content], set()).add(split)
    assert all(len(splits) == 1 for splits in homes.values()) and len(got["test"]) > 0
    assert got.counts.used == 300


def test_a_book_that_says_nearly_the_same_twice_is_trained_without_what_is_held_out(tmp_path):
    words = drawn(9000).split()
    again = [word if at % 12 else f"n{at}" for at, word in enumerate(words)]  # no run of 13 words is the same
    (tmp_path / "book.txt").write_text(" ".join(words) + "\n\n" + " ".join(again))
    screening = Screening(deduplicate="near", near_threshold=0.3)
    got = read_records(str(tmp_path / "book.txt"), "texts", screening=screening)
    assert got.counts.altered["held_out_passages"] > 0
    assert "nearly the same as" in got.counts.first["held_out_passages"]


def held_out_before(folder, question, short, text):
    """What earlier stages leave behind: a set of each of these kinds, as a run writes them."""
    asked = (Message("user", question),)
    brief = Example((Message("system", "Be brief."), Message("user", short), Message("assistant", "No.")))
    write_heldout(folder, Heldout("general", "documents", (Document(text),)))
    write_heldout(folder, Heldout("instructions", "responses", (brief,)))
    write_heldout(folder, Heldout("rankings", "rankings", (Comparison(asked, ("Yes.", "No."), (1, 2)),)))
    write_heldout(folder, Heldout("prompts", "prompts", (Prompt((Message("system", "Be kind."),)),)))  # asks nothing
    return str(folder)


def test_what_an_earlier_stage_holds_out_is_not_trained(tmp_path, tokenizer):
    question, text = drawn(20), drawn(50)
    before = held_out_before(tmp_path / "before/heldout", question, "Is it so?", text)
    rows = [{"prompt": drawn(12), "completion": drawn(8)} for _ in range(40)]
    rows[3]["prompt"] += f" {question.upper()}"
    rows[5]["prompt"] = "Is it so?"
    rows[6]["prompt"] = f"{drawn(9)} Is it so?"  # other rows may say as little
    rows[8]["completion"] = f"{drawn(5)} {text}"
    file = lines(tmp_path, rows)
    apart = {"earlier_heldout": [before], "cache_dir": str(tmp_path / "cache")}
    options = InstructionsOptions(path=file, validation_fraction=0, test_fraction=0, max_length=4096, **apart)
    data = Instructions(options, tokenizer=tokenizer)
    assert data.counts()["skipped"] == {"earlier_heldout": 3} and data.counts()["used"] == 37
    assert data.overview().whole.skipped == {"earlier_heldout": 3}  # the table says so
    assert {f"{before}/{name}.jsonl" for name in ("general", "instructions", "rankings")} <= set(data.files())
    assert "data.jsonl:4: holds what an earlier stage holds out, " in data._first_bad["earlier_heldout"]
    kept = Instructions(replace(options, decontaminate_words=0), tokenizer=tokenizer)
    assert kept.counts()["skipped"] == {} and f"{before}/general.jsonl" not in kept.files()
    told = "\n\n".join([*(drawn(60) for _ in range(30)), text, *(drawn(60) for _ in range(30))])
    book = lines(tmp_path, [{"text": told}], "book.jsonl")  # few texts: the blocks that hold it go
    got = read_records(book, "texts", screening=Screening(earlier_heldout=[before]))
    assert got.counts.altered["held_out_passages"] > 0 and text not in "\n\n".join(texts_of(got))


def test_a_planted_question_of_a_conversation_is_dropped_from_texts_and_conversations(tmp_path):
    question = "Which bank of the river does the old water mill stand on today?"
    evaluation = lines(tmp_path, [{"question": question, "choices": ["left", "right"], "answer": "left"}], "eval.jsonl")
    texts = [{"text": drawn(60)} for _ in range(30)] + [{"text": f"A quiz. {question} The left one. {drawn(60)}"}]
    named = DataOptions(decontaminate=[evaluation], validation_fraction=0, test_fraction=0, cache_dir=str(tmp_path))
    got = read_records(lines(tmp_path, texts, "texts.jsonl"), "texts", named)
    assert dict(got.counts.skipped) == {"decontaminated": 1} and "eval.jsonl:1" in got.counts.first["decontaminated"]
    rows = [{"prompt": f"{drawn(20)}?", "completion": drawn(5)} for _ in range(30)]
    rows += [{"prompt": f"Answer in a word. {question}", "completion": "Left."}]
    got = read_records(lines(tmp_path, rows, "rows.jsonl"), "examples", named)
    assert dict(got.counts.skipped) == {"decontaminated": 1}


def reasoned(prompt, thoughts, call=None, answer="Left."):
    message = {"role": "assistant", "content": answer, "reasoning_content": thoughts}
    if call:
        message |= {"tool_calls": [{"type": "function", "function": {"name": "look_up", "arguments": call}}]}
    return {"messages": [{"role": "user", "content": prompt}, message]}


def test_reasoning_and_calls_are_part_of_what_a_row_says(tmp_path):
    question = "Which bank of the river does the old water mill stand on today?"
    evaluation = lines(tmp_path, [{"question": question}], "eval.jsonl")
    rows = [reasoned(f"{drawn(20)}?", drawn(30)) for _ in range(30)]
    rows += [reasoned(drawn(20), f"I saw that: {question} Left."), reasoned(drawn(20), "", {"q": f"a\n{question}"})]
    all_trained = {"validation_fraction": 0, "test_fraction": 0}
    screening = Screening(decontaminate=[evaluation])
    got = read_records(lines(tmp_path, rows), "examples", DataOptions(**all_trained), screening=screening)
    assert dict(got.counts.skipped) == {"decontaminated": 2}
    same = [reasoned("Which bank?", drawn(30)) for _ in range(20)]
    same += [reasoned("Which bank?", "", {"place": drawn(30)}) for _ in range(20)]
    got = read(lines(tmp_path, same), "examples", deduplicate="near")
    assert got.counts.skipped == {} and got.counts.used == 40
    (used,) = (one.words for one in got.counts.overview.kinds.values())
    assert used == 20 * (2 + 30 + 1) + 20 * (2 + 1 + 1 + 1 + 30)
    record = got["train"][-1]
    assert texts_said(record)[:2] == ("Which bank?", "Left.") and texts_said(record)[2:4] == ("look_up", "place")


def test_named_tables_are_read_as_tables_are(tmp_path):
    question = "Which bank of the river does the old water mill stand on today?"
    turns = json.dumps([{"role": "user", "content": question}, {"role": "assistant", "content": "Left, said the man."}])
    table = tmp_path / "eval.csv"
    table.write_text('messages\n"' + turns.replace('"', '""') + '"\n')
    assert named_items([str(table)], tmp_path) == [(question, f"{table}:2")]
    table.write_text(f"prompt,completion,label\n{question},one,B\n")
    assert named_items([str(table)], tmp_path) == [(question, f"{table}:2")]
    table.write_text("messages\n[oops\n")
    with pytest.raises(UserError, match=r"eval.csv:2: 'messages' is '\[oops'; JSON is needed.*\(data.decontaminate\)"):
        named_items([str(table)], tmp_path)
    table.write_text(f"frage,antwort\n{question},Links am Ufer\n")
    columns = {"frage": "question", "antwort": "answer"}
    assert named_items([str(table)], tmp_path, columns=columns) == [(question, f"{table}:2")]
    table.write_text(f"frage,question\n{question},other\n")
    with pytest.raises(UserError, match=r"eval.csv:2: data.columns makes 'frage' to 'question', which it has"):
        named_items([str(table)], tmp_path, columns=columns)
    table.write_text(f"frage,antwort\n{question},Links am Ufer\n")
    rows = [{"frage": f"{drawn(20)}?", "antwort": drawn(5)} for _ in range(30)] + [{"frage": question, "antwort": "No"}]
    file = lines(tmp_path, rows)
    screening = Screening(decontaminate=[str(table)], columns=columns)
    fractions = {"validation_fraction": 0, "test_fraction": 0}
    got = read_records(file, "examples", DataOptions(columns=columns, **fractions), screening=screening)
    assert got.counts.skipped == {"decontaminated": 1}
    assert screening_of(InstructionsOptions(path=file, columns=columns)).columns == columns


def test_the_text_of_named_documents_is_kept_where_the_run_s_is(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(named_sets, "read_rows", lambda *given: (asked.append(given), iter(()))[1])
    named_items([lines(tmp_path, [{"text": "a"}])], tmp_path / "cache", "auto")
    assert asked[0][1:] == ("auto", tmp_path / "cache")


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"kind": "prompts", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}, "u"),
        ({"kind": "rankings", "prompt": [{"role": "user", "content": "u"}], "completions": ["a", "b"]}, "u"),
        ({"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]}, "h"),
        ({"id": "7", "instruction": "i", "input": "", "output": "o"}, "i"),
        ({"id": "7", "sentence_one": "a", "more": {"two": ["b", 3]}}, "a\nb"),
    ],
)
def test_what_a_named_row_asks(tmp_path, row, asked):
    file = lines(tmp_path, [row])
    assert named_items([file], tmp_path) == [(asked, f"{file}:1")]


def test_of_a_named_folder_with_splits_only_what_is_held_out_counts(tmp_path):
    lines(tmp_path, [{"text": "trained"}], "e/train.jsonl")
    lines(tmp_path, [{"text": "tested"}], "e/test.jsonl")
    assert [text for text, _ in named_items([str(tmp_path / "e")], tmp_path)] == ["tested"]
    file = lines(tmp_path, [{"text": drawn(20)} for _ in range(30)])
    with pytest.raises(UserError, match=r"^data.decontaminate: .*nowhere.jsonl: no such file"):
        read(file, decontaminate=[str(tmp_path / "nowhere.jsonl")])
    with pytest.raises(UserError, match=r"empty.jsonl:1: no text \(data.decontaminate\)"):
        read(file, decontaminate=[lines(tmp_path, [{"id": "1"}], "empty.jsonl")])


def test_a_book_that_repeats_a_held_out_passage_is_trained_without_it(tmp_path):
    rng = random.Random(11)
    chorus = " ".join(rng.choices(WORDS, k=600))
    parts = [f"{' '.join(rng.choices(WORDS, k=rng.randint(2000, 3000)))} {chorus} " for _ in range(8)]
    (tmp_path / "book.txt").write_text("".join(parts))
    path = str(tmp_path / "book.txt")
    got, whole = (read_records(path, "texts", screening=Screening(decontaminate_words=n)) for n in (13, 0))
    assert got["test"] == whole["test"] and got["validation"] == whole["validation"]
    assert whole.counts.altered == {} and 0 < got.counts.altered["held_out_passages"] < 60
    assert got.counts.used == got.counts.read == 1  # no row was dropped
    train, held = "".join(texts_of(got)), [*texts_of(got, "test"), *texts_of(got, "validation")]
    halves = [half for text in held for half in (text[: len(text) // 2], text[len(text) // 2 :])]
    assert sum(half.strip() in train for half in halves) < sum(h.strip() in "".join(texts_of(whole)) for h in halves)


def test_rules_and_languages_are_counted_by_reason(tmp_path):
    english = "The tenant pays the rent on the first day of every month, and that is to be done with a transfer."
    arabic = "يدفع المستأجر الإيجار في اليوم الأول من كل شهر ويكون ذلك بتحويل إلى حساب المالك."
    rows = [{"text": f"{english} {n}"} for n in range(30)] + [{"text": f"{arabic} {n}"} for n in range(5)]
    file = lines(tmp_path, [*rows, {"text": "short"}])
    options = {"near_threshold": 1.0, "decontaminate_words": 0}
    got = read(file, languages=["ar"], **options)
    assert got.counts.skipped == {"other_language": 30} and got.counts.used == 6
    told = got.counts.as_dict()["languages"]
    assert sum(told.values()) == 36 and sorted(told.values()) == [1, 5, 30]
    got = read(file, quality={"min_words": 3, "max_words": 20}, **options)
    assert got.counts.skipped == {"quality_min_words": 1, "quality_max_words": 30}
    assert got.counts.first["quality_min_words"].endswith(":36: min_words is 3, and it has 1")


def test_one_source_does_not_train_what_another_holds_out(tokenizer, tmp_path):
    held = drawn(60)
    for name, extra in (("a", f"{drawn(30)} {held}"), ("b", drawn(40))):
        lines(tmp_path, [{"text": drawn(60)} for _ in range(30)] + [{"text": extra}], f"{name}/train.jsonl")
    lines(tmp_path, [{"text": held}], "b/test.jsonl")
    path = {str(tmp_path / "a"): 1, str(tmp_path / "b"): 1}
    options = TextOptions(path=path, max_length=32, cache_dir=str(tmp_path / "cache"), test_fraction=0)
    data = RawText(options, tokenizer=tokenizer)
    counts = data.counts()
    assert counts["skipped"] == {"decontaminated": 1} and counts["read"] == counts["used"] + 1
    named = lines(tmp_path, [{"text": drawn(40)}], "c/evaluation.jsonl")
    other = RawText(replace(options, decontaminate=[named]), tokenizer=tokenizer)
    assert set(other.files()) - set(data.files()) == {named}  # the lineage tells of it
