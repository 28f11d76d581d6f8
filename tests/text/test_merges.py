"""A BPE that merges on: as defined, never longer, nothing lost, no old id changed, no control token made of text."""

import json
import pickle
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import decoders, models, pre_tokenizers, trainers

from lit_llm.errors import UserError
from lit_llm.model_sources.pre_tokenizers import RULES
from lit_llm.text.bpe import train_bpe
from lit_llm.text.control_tokens import SPECIALS
from lit_llm.text.merges import LearnedMerges, learn_merges, replaced, with_merges
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer

OLD = ["The house has 12 doors, and it's green. " * 9, "def f(x):\n    return x\n" * 9]
NEW = [
    "في البيت بابان ونافذة، والبيت أخضر. كتب الكاتب كتابا في الكتب",
    "房子有两扇门。房子是绿色的。房子很大",
    "🙂🙂🙂 👩‍👩‍👧 🙂🙂 in 2024 and 2024, 20242024",
    "greenhouses and housedoors the the housesss sss ssss",
    "".join(SPECIALS),
]
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)))
MANY = st.lists(st.one_of(ANY_TEXT, st.sampled_from([*NEW, *OLD, *SPECIALS, " ", "2024", "البيت"]))).map("".join)


def tokenizer_by(rule: str) -> Tokenizer:
    """A small tokenizer that cuts its texts by llama.cpp's rule of this name."""
    empty = json.loads(Engine(models.BPE()).to_str())
    empty["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": RULES[rule].steps()}
    empty["model"]["ignore_merges"] = RULES[rule].whole_words_first
    engine = Engine.from_str(json.dumps(empty))
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(OLD, trainer)
    state = json.loads(engine.to_str())
    state["model"]["ignore_merges"] = RULES[rule].whole_words_first
    return Tokenizer(Engine.from_str(json.dumps(state)), {"eos_token": SPECIALS[0]})


@pytest.fixture(scope="module", params=["qwen2", "smollm", "llama3", "gpt-2"])
def before(request):
    return tokenizer_by(request.param)


@pytest.fixture(scope="module")
def after(before):
    found = pickle.loads(pickle.dumps(before))
    found.add_merges(learn_merges(before.engine, NEW * 3, 120))
    return found


def by_definition(tokenizer: Tokenizer, texts: list[str], count: int) -> LearnedMerges:
    """Encodes the corpus anew for every merge, with the library, and counts."""
    control = set(tokenizer.control_tokens)
    merges, tokens = [], []
    cut = tokenizer.engine.pre_tokenizer.pre_tokenize_str
    pieces = Counter(piece for text in texts for piece, _ in cut(text))
    while len(tokens) < count:
        engine = with_merges(tokenizer.engine, LearnedMerges(tuple(merges), tuple(tokens)))
        bare, pairs = Engine(engine.model), Counter()
        for piece, n in pieces.items():
            for pair in pairwise(bare.encode(piece, add_special_tokens=False).ids):
                pairs[pair] += n
        spelled = {pair: tuple(engine.id_to_token(i) for i in pair) for pair in pairs}
        possible = [
            (-n, pair)
            for pair, n in pairs.items()
            if n > 1 and "".join(spelled[pair]) not in control and len("".join(spelled[pair])) <= 32
        ]
        if not possible:
            break
        pair = spelled[min(possible)[1]]
        merges.append(pair)
        if "".join(pair) not in engine.get_vocab():
            tokens.append("".join(pair))
    return LearnedMerges(tuple(merges), tuple(tokens))


def test_every_merge_is_the_most_frequent_pair_of_its_time(before):
    texts = [*NEW * 2, *OLD[:1]]
    found = learn_merges(before.engine, texts, 80)
    assert found == by_definition(before, texts, 80)
    assert len(found.tokens) == 80


def test_a_pair_may_become_a_token_that_the_vocabulary_has():
    """And then older merges go on from there: "ab" is old, "xab" too, but "a" and "b" met only as "a" + "bc"."""
    alphabet = {chr(c): n for n, c in enumerate(b"abcx")}
    vocabulary = alphabet | {"bc": 4, "abc": 5, "ab": 6, "xabc": 7}
    merges = [("b", "c"), ("ab", "c"), ("x", "abc")]  # nothing makes "ab" of "a" and "b" once "bc" is made
    engine = Engine(models.BPE(vocab=vocabulary, merges=merges))
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.ByteLevel(False, use_regex=False), decoders.ByteLevel()
    before = Tokenizer(engine, {"eos_token": "x"})
    assert before.encode("xabc") == [3, 0, 4]
    found = learn_merges(before.engine, ["xabc"] * 3, 5)
    assert found == LearnedMerges((("a", "bc"),), ()) == by_definition(before, ["xabc"] * 3, 5)
    assert before.add_merges(found) == {} and before.encode("xabc") == [7] and before.vocab_size == 8


@settings(max_examples=150, deadline=None)
@given(MANY)
def test_any_text_round_trips_and_has_no_more_tokens(before, after, text):
    old, new = before.encode(text), after.encode(text)
    assert b"".join(after.token_bytes(i) for i in new) == text.encode()
    assert after.decode(new, skip_special=False) == text and after.encode_batch([text]) == [new]
    assert not set(after.control_tokens.values()) & set(new)
    assert len(new) <= len(old)
    if len(new) == len(old):
        assert new == old


def test_old_ids_stay_and_new_ones_stand_for_old(before, after):
    old, new = (one.engine.get_vocab(with_added_tokens=True) for one in (before, after))
    assert old.items() <= new.items() and after.vocab_size == before.vocab_size + 120
    pieces = replaced(before.engine, after.engine)
    assert sorted(pieces) == list(range(before.vocab_size, after.vocab_size))
    for token, ids in pieces.items():
        assert max(ids) < before.vocab_size and len(ids) > 1
        assert b"".join(before.token_bytes(i) for i in ids) == after.token_bytes(token)
    assert after.control_tokens == before.control_tokens


def test_tokens_end_where_pieces_end(before, after):
    """No token crosses what the pre-tokenizer cuts; where it cuts every digit, no token has two."""
    cut = before.engine.pre_tokenizer.pre_tokenize_str
    single, whole = (len(cut("2024")) == n for n in (4, 1))
    texts = [after.token_bytes(i).decode("utf-8", "replace") for i in range(before.vocab_size, after.vocab_size)]
    assert any("ب" in text for text in texts) and any("房" in text for text in texts)
    assert any("🙂" in text for text in texts)
    assert any(text.strip() == "2024" for text in texts) == whole
    for text in texts:
        assert "\ufffd" in text or len(cut(text)) == 1, text
        assert not single or sum(c.isdigit() for c in text) < 2


def test_a_corpus_is_shorter_and_other_text_as_it_was(before, after):
    assert sum(map(len, map(after.encode, NEW))) < 0.5 * sum(map(len, map(before.encode, NEW)))
    for text in (OLD[1], "return x and y", "Ελλάδα"):
        assert after.encode(text) == before.encode(text)


def test_a_control_token_is_never_made_of_text():
    engine = Engine(tokenizer_by("gpt-2").engine.model)
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(False, use_regex=False)  # nothing is cut
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens(list(SPECIALS))
    tokenizer = Tokenizer(engine, {"eos_token": SPECIALS[0]})
    tokenizer.add_merges(learn_merges(tokenizer.engine, [c + name for c in "abcdefgh" for name in SPECIALS[:2]], 60))
    for text in SPECIALS[:2]:
        ids = tokenizer.encode(text)
        assert len(ids) == 2 and not set(ids) & set(tokenizer.control_tokens.values())


def test_pairs_run_out(before):
    found = learn_merges(before.engine, ["مرحبا مرحبا", "x" * 300 + "y", "a\ud800"], 10_000)
    assert 0 < len(found.tokens) < 20
    assert learn_merges(before.engine, [], 5) == LearnedMerges()
    assert with_merges(before.engine, LearnedMerges()) is before.engine


def test_it_can_grow_again_and_is_read_again(after, tmp_path):
    again = pickle.loads(pickle.dumps(after))
    pieces = again.add_merges(learn_merges(after.engine, ["Ελλάδα και Ελλάδα"] * 4, 8))
    assert sorted(pieces) == list(range(after.vocab_size, after.vocab_size + 8))
    again.save(tmp_path)
    read = load_tokenizer(tmp_path)
    for text in [*NEW, *OLD, "Ελλάδα"]:
        assert read.encode(text) == again.encode(text)
        assert "Ε" in text or again.encode(text) == after.encode(text)
    assert read.fingerprint() == again.fingerprint() != after.fingerprint()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_transformers_reads_it(family, tmp_path):
    """Qwen2's tokenizer too, which transformers makes anew from vocabulary and merges."""
    transformers = pytest.importorskip("transformers")
    tokenizer = train_bpe(OLD, 340, show_progress=False)
    tokenizer.add_merges(learn_merges(tokenizer.engine, NEW * 3, 60))
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert len(theirs) == tokenizer.vocab_size
    for text in NEW[:4] + OLD:
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (models.Unigram([("a", -1.0), ("b", -2.0)], 0, False), "Unigram"),
        (models.BPE(vocab={"a": 0, "▁": 1}, merges=[], byte_fallback=True), "a BPE as SentencePiece's"),
        (models.WordPiece({"a": 0}, unk_token="a"), "WordPiece"),
    ],
)
def test_other_tokenizers_are_refused_in_one_line(model, name):
    engine = Engine(model)
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    with pytest.raises(UserError, match=f"^stage.new_tokens=auto: .*tokenizer is {name}; give the words as") as error:
        learn_merges(engine, ["a b"], 3)
    assert "\n" not in str(error.value)
