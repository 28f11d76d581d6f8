"""What the tests of the DataModules share: a small tokenizer, and files to read."""

import json
import random

import pytest

from lit_llm.text.bpe import train_bpe

WORDS = "the cat sat on a mat and saw dogs run over hills while birds sang of rivers and rain".split()  # noqa: SIM905


def _sentence(number, length=12):
    """A sentence of its own for every number: no two share a run of words that is long."""
    picked = random.Random(number).choices(WORDS, k=length)
    return f"{' '.join(picked).capitalize()} {number}."


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe([_sentence(n) for n in range(200)], vocab_size=400, show_progress=False)


@pytest.fixture(scope="session")
def sentence():
    return _sentence


@pytest.fixture
def write(tmp_path):
    """write(name, rows): a JSONL file of dicts, or a text file of a string; its path."""

    def write_file(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_file


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")
