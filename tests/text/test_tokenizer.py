"""Bytes round-trip exactly; control tokens in a text stay plain; the folder is transformers' folder."""

import json
import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_llm.errors import UserError
from lit_llm.text.bpe import train_bpe
from lit_llm.text.control_tokens import DOCUMENT_END, SPECIALS, TURN_END
from lit_llm.text.tokenizer import load_tokenizer

TEXTS = [
    "the cat sat on the mat and the dog sat too. " * 20,
    "مرحبا بالعالم، كيف حالك؟ " * 20,
    "def f(x):\n    return x\n" * 9,
]
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)))


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS, 700, show_progress=False)


@pytest.fixture(scope="module")
def reloaded(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def copied(tokenizer):
    return pickle.loads(pickle.dumps(tokenizer))


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
def test_any_text_round_trips_exactly(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids, skip_special=False) == text
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()


@pytest.mark.parametrize(
    "text", ["السَّلامُ عليكم", "👩‍👩‍👧‍👦 🇸🇦", "e\u0301 é ﷺ", "\u200f\u202eabc", "日本語", "\r\n\t \x00\x01", "ﬁ Å Å"]
)
def test_scripts_round_trip_exactly(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(ANY_TEXT, st.sampled_from(SPECIALS))).map("".join))
def test_control_tokens_in_text_stay_plain_also_after_save_and_load(tokenizer, reloaded, copied, text):
    control = set(tokenizer.control_tokens.values())
    for one in (tokenizer, reloaded, copied):
        ids = one.encode(text)
        assert not control & set(ids)
        assert one.encode_batch([text]) == [ids]
        assert one.decode(ids) == text  # nothing is lost as "special"


def test_reloading_keeps_ids_and_fingerprint(tokenizer, reloaded):
    assert reloaded.fingerprint() == tokenizer.fingerprint()
    assert reloaded.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert reloaded.end_ids == tokenizer.end_ids
    assert (tokenizer.id_of(TURN_END), tokenizer.id_of(DOCUMENT_END)) == (
        tokenizer.turn_end_id,
        tokenizer.document_end_id,
    )


def test_fingerprint_sees_a_new_token_and_another_template(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    other = load_tokenizer(tmp_path)
    other.add_tokens(["myocardial"])
    assert other.fingerprint() != tokenizer.fingerprint()
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    assert load_tokenizer(tmp_path).fingerprint() != tokenizer.fingerprint()


def test_training_is_deterministic(tokenizer):
    assert train_bpe(TEXTS, 700, show_progress=False).fingerprint() == tokenizer.fingerprint()


DOMAIN = " the tensor was a tensor of tensors tensorboard"


@pytest.fixture(scope="module")
def grown():
    tokenizer = train_bpe(TEXTS, 700, show_progress=False)
    tokenizer.add_tokens(["tensor", "عضلة", "myocardial", "<grad>"])
    return tokenizer


def test_added_words_are_single_ids_and_round_trip(tmp_path):
    tokenizer = train_bpe(TEXTS, 400, show_progress=False)
    before = tokenizer.vocab_size
    ids = tokenizer.add_tokens(["myocardial", "عضلة", "é", "<grad>"])
    assert {i for i in ids if i >= before} == set(range(before, tokenizer.vocab_size)) and len(ids) == 7
    tokenizer.save(tmp_path)
    for one in (tokenizer, load_tokenizer(tmp_path)):
        assert one.encode("myocardial myocardial, عضلة") == [*ids[:2], *tokenizer.encode(","), ids[3]]
        assert ids[6] in one.encode("a <grad>.")
        assert one.decode(one.encode("myocardial عضلة é <grad>")) == "myocardial عضلة é <grad>"
        assert one.add_tokens(["عضلة"]) == ids[2:4]
        assert one.vocab_size == tokenizer.vocab_size and one.fingerprint() == tokenizer.fingerprint()


def test_added_words_shorten_their_text_and_leave_longer_words_alone(tokenizer, grown):
    assert len(grown.encode(DOMAIN)) == len(tokenizer.encode(DOMAIN)) - 2 * (len(tokenizer.encode(" tensor")) - 1)
    for text in (" tensors tensorboard", "a_tensors", "عضلةال والعضلة", "x<grad>y", TEXTS[0], TEXTS[1], TEXTS[2]):
        assert grown.encode(text) == tokenizer.encode(text)
    assert [grown.token_bytes(i) for i in grown.encode("(tensor) tensor, tensor.")] == [
        *(grown.token_bytes(i) for i in grown.encode("(tensor)")), b" tensor", b",", b" tensor", b".",
    ]  # fmt: skip
    assert len(grown.encode("عضلة عضلة، عضلة")) == 3 + len(tokenizer.encode("،"))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(ANY_TEXT, st.sampled_from(["tensor", " tensor", "عضلة", " عضلة", "<grad>", " ", ".", *SPECIALS]))
    ).map("".join)
)
def test_with_added_words_any_text_round_trips_and_control_tokens_stay_plain(grown, text):
    ids = grown.encode(text)
    assert b"".join(grown.token_bytes(i) for i in ids) == text.encode()
    assert not set(grown.control_tokens.values()) & set(ids)
    assert pickle.loads(pickle.dumps(grown)).encode(text) == ids


def test_words_join_a_vocabulary_whose_control_tokens_lie_behind_it(tokenizer, tmp_path):
    """As in Qwen's files: the ids of what is added later begin after the control tokens, also when read again."""
    state = json.loads(tokenizer.engine.to_str())
    vocabulary = {token: n for n, token in enumerate(t for t in state["model"]["vocab"] if t not in SPECIALS)}
    state["model"]["vocab"] = vocabulary
    for n, token in enumerate(state["added_tokens"]):
        token["id"] = len(vocabulary) + n
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    one = load_tokenizer(tmp_path)
    control, rows = dict(one.control_tokens), one.vocab_size
    assert one.add_tokens(["tensor"]) == [rows, rows + 1]
    one.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.control_tokens == one.control_tokens == control
    assert again.encode(DOMAIN) == one.encode(DOMAIN) and rows + 1 in again.encode(DOMAIN)
    assert not set(control.values()) & set(again.encode("".join(SPECIALS)))


@pytest.mark.parametrize("name", ["tokenizer", "grown"])
def test_transformers_reads_the_folder_with_the_same_ids(request, name, tmp_path):
    transformers, tokenizer = pytest.importorskip("transformers"), request.getfixturevalue(name)
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.eos_token_id == tokenizer.turn_end_id
    for text in [*TEXTS, "e\u0301 🤗\n\n  x", " lead", "12345 don't", DOMAIN]:
        assert theirs.encode(text) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text


def test_an_end_token_stored_as_ordinary_text_becomes_a_control_token(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    for token in data["added_tokens"]:
        token["special"] = False
    file.write_text(json.dumps(data), encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    assert loaded.turn_end_id not in loaded.encode(f"a {TURN_END} b")


def test_generation_config_adds_end_ids(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    assert load_tokenizer(tmp_path).end_ids == (2, 0, 5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "no tokenizer.json"),
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer_config.json", "{", "not JSON"),
        ("tokenizer_config.json", "[]", "an object is needed"),
    ],
)
def test_damaged_folders_are_one_line(tokenizer, tmp_path, name, content, message):
    tokenizer.save(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_older_folder_s_tokenizer_is_told_with_what_makes_a_new_one(tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text("{}")
    made = re.escape(f"AutoTokenizer.from_pretrained({str(tmp_path)!r}).save_pretrained({str(tmp_path)!r})")
    with pytest.raises(UserError, match=rf"only vocab.json and merges.txt; .*\(pip install transformers\): {made}$"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install transformers sentencepiece"):
        load_tokenizer(tmp_path)


def test_wrong_arguments_are_one_line(tokenizer):
    with pytest.raises(UserError, match="vocab_size=200"):
        train_bpe(["a"], 200, show_progress=False)
    with pytest.raises(UserError, match="surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(UserError, match="surrogate"):
        tokenizer.encode_batch(["ok", "a\ud800"])
    with pytest.raises(UserError, match="blank"):
        tokenizer.add_tokens([" "])
    with pytest.raises(UserError, match="control token"):
        tokenizer.add_tokens([TURN_END])
