"""The table of pieces against the library that it stands for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from lit_llm.text import plain_text, pretokenization
from lit_llm.text.pretokenization import GPT2, LLAMA3, PATTERNS, QWEN2, pieces_of
from lit_llm.text.tokenizer import Tokenizer

CORPUS = [
    "It's a test, isn't it? We'll see 12345 of them.\r\n\r\n   Indented  text\n",
    "naïve café 東京 ٣٤ Ünïcode…",
] * 9
EVERYTHING = [chr(code) for code in range(1, 1 << 16) if not 0xD800 <= code < 0xE000]


def engine_of(pattern: str) -> Engine:
    """A small byte-level BPE that cuts by ``pattern``."""
    engine = Engine(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == GPT2)
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    engine.pre_tokenizer = byte_level if pattern == GPT2 else pre_tokenizers.Sequence([cut, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=350, initial_alphabet=alphabet, special_tokens=["<|im_end|>"], show_progress=False
    )
    engine.train_from_iterator(CORPUS, trainer)
    engine.encode_special_tokens = True
    return engine


ENGINES = {pattern: engine_of(pattern) for pattern in PATTERNS}
TABLES = {pattern: pieces_of(engine) for pattern, engine in ENGINES.items()}


def check(pattern: str, text: str) -> None:
    table = TABLES[pattern]
    assert table is not None
    assert table.encode(text) == ENGINES[pattern].encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("pattern", PATTERNS, ids=("qwen2", "llama3", "gpt2"))
def test_every_character_of_sixteen_bits_is_cut_as_the_library_cuts_it(pattern: str) -> None:
    check(pattern, "".join(EVERYTHING))
    check(pattern, "".join(f"a'{c}x {c}\n {c}1{c}" for c in EVERYTHING[::7] + EVERYTHING[:1000]))


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from(" \t\n\r\u00a0aZé東'sSſtT1٣½,.…-_<|im_end>\u0301\ufe0f"), max_size=40))
def test_texts_of_awkward_characters_have_the_same_ids(text: str) -> None:
    for pattern in PATTERNS:
        check(pattern, text)


def test_only_the_library_encodes_what_the_table_cannot() -> None:
    table = TABLES[QWEN2]
    assert table is not None
    assert table.encode("a picture 🙂") is None and table.encode("half \ud800") is None
    composing = engine_of(QWEN2)
    composing.normalizer = normalizers.NFC()
    only_ascii = pieces_of(composing)
    assert only_ascii is not None
    assert only_ascii.encode("e\u0301") is None and only_ascii.encode("plain") is not None


def test_tokenizers_of_other_rules_have_no_table() -> None:
    assert pieces_of(engine_of(r"\p{L}+")) is None
    cutting, adding, lower = engine_of(QWEN2), engine_of(LLAMA3), engine_of(GPT2)
    cutting.enable_truncation(8)
    adding.add_tokens([AddedToken("<tensor>", special=False)])
    lower.normalizer = normalizers.Lowercase()
    assert pieces_of(cutting) is None and pieces_of(adding) is None and pieces_of(lower) is None


def test_a_tokenizer_turns_to_the_table_without_a_change_of_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a <|im_end|> of users' text", *CORPUS, "a picture 🙂", ""]
    plain, fast = Tokenizer(engine_of(QWEN2)), Tokenizer(engine_of(QWEN2))
    expected = [plain.encode(text) for text in texts]
    assert "_pieces" not in plain._plain.__dict__
    monkeypatch.setattr(plain_text, "WORTH_PIECES", 0)
    monkeypatch.setattr(plain_text, "library_cores", lambda: 8)
    assert fast.encode_batch(texts) == expected
    assert "_pieces" not in fast._plain.__dict__  # all cores at the library's work
    monkeypatch.setattr(plain_text, "library_cores", lambda: 2)
    assert fast.encode_batch(texts) == expected == [fast.encode(text) for text in texts]
    assert fast._plain.__dict__["_pieces"]
    for cores in (8, 2):
        monkeypatch.setattr(plain_text, "library_cores", lambda cores=cores: cores)
        arrays = fast.encode_arrays(texts)
        assert [array.tolist() for array in arrays] == expected and {array.dtype.name for array in arrays} == {"uint32"}
    fast.add_tokens(["tokenizer", "<tensor>"])
    assert fast.encode_batch([" tokenizer <tensor> tokenizers"]) == [
        fast.engine.encode(" tokenizer <tensor> tokenizers").ids
    ]


def test_the_table_stays_within_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretokenization, "MOST_PIECES", 3)
    table = pieces_of(ENGINES[QWEN2])
    assert table is not None
    text = "one two three four five " + "long" * 50
    assert table.encode(text) == ENGINES[QWEN2].encode(text).ids
    assert len(table) == 3
