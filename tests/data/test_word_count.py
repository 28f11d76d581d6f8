"""The task of so many words: made of the installed questions, the same every time, each split from its own."""

import json
import re

import pytest

from lit_llm.data import word_count
from lit_llm.data.installed_docs import corpus
from lit_llm.data.options import DataOptions
from lit_llm.data.reading import read_records


@pytest.fixture
def installed(monkeypatch, write, cache):
    """A small corpus of prompts in place of the installed one."""

    def one(name, count):
        turn = {"role": "user", "content": f"What is {name}.function_{count}?"}
        return {"messages": [turn], "function": f"{name}.function_{count}"}

    def files(part, _cache):
        assert part == "prompts"
        more = {"messages": [*one("train", 0)["messages"], {"role": "assistant", "content": "A."}] * 1}
        more["messages"].append({"role": "user", "content": "And then?"})
        rows = {name: [one(name, n) for n in range(60)] for name in ("train", "validation", "test")}
        rows["train"].append({**more, "function": "f"})
        return [write(f"prompts/{name}.jsonl", found) for name, found in rows.items()]

    monkeypatch.setattr(corpus, "part_files", files)
    return cache


def test_each_row_asks_for_its_number_of_words(installed):
    records = read_records("installed/word_count", "prompts", DataOptions(cache_dir=installed))
    assert {name: len(found) for name, found in records.splits.items()} == {"train": 60, "validation": 60, "test": 60}
    for prompt in records["train"] + records["test"]:
        told = re.fullmatch(r"What is .*\? Answer with exactly (\d) words\.", prompt.messages[0].content)
        assert told[1] == prompt.tags["words"] and "function_" in prompt.tags["function"]
    assert {int(p.tags["words"]) for p in records["train"]} == set(range(word_count.FEWEST, word_count.MOST + 1))


def test_it_is_made_once_and_the_same_every_time(installed):
    first = word_count.part_files(installed)
    before = [open(file, "rb").read() for file in first]  # noqa: PTH123, SIM115
    assert word_count.part_files(installed) == first
    row = json.loads(before[0].splitlines()[0])
    assert (
        word_count.asked({"messages": [{"content": "What is test.function_0?"}], "function": "test.function_0"}) == row
    )
