"""Tokenizers that put blanks before texts: ids, streams and masks are transformers', in one piece or cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Engine

from lit_llm.generation.streaming import stream_text
from lit_llm.records import Message
from lit_llm.text.chat import ChatTemplate
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer

transformers = pytest.importorskip("transformers")

TEXTS = ["the cat sat on the mat. and the dog sat too!\n" * 9, "قطة صغيرة على السجادة " * 9, "[INST] who? [/INST] me"]
SPECIALS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>"]
SPELLED = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
FIRST_BLANK = decoders.Strip(content=" ", left=1)

LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL1 = LLAMA2.replace("bos_token + ", "('' if loop.index0 else bos_token) + ").replace(" + ' ' + eos", " + eos")
MISTRAL3 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) }}"
    "{{ '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def trained(model, trainer, normalizer, pre_tokenizer, decoder, specials=SPECIALS):
    """A vocabulary of words, under rules that may differ from those it was learned with."""
    engine = Engine(model)
    engine.normalizer, engine.pre_tokenizer = normalizers.Replace(" ", "▁"), pre_tokenizers.Metaspace()
    engine.train_from_iterator(TEXTS, trainer)
    engine.normalizer, engine.pre_tokenizer, engine.decoder = normalizer, pre_tokenizer, decoder
    engine.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    return engine


def bpe(normalizer, pre_tokenizer, decoder, specials=SPECIALS):
    alphabet = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", *alphabet], show_progress=False
    )
    model = models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    made = trained(model, trainer, normalizer, pre_tokenizer, decoder, specials)
    state = json.loads(made.to_str())  # bytes are pieces of the model, not added tokens
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in alphabet]
    return Engine.from_str(json.dumps(state))


def unigram(normalizer, pre_tokenizer, decoder):
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False,
        initial_alphabet=[*"abcdefghijklmnopqrstuvwxyz▁\n.!?"],
    )  # fmt: skip
    return trained(models.Unigram(), trainer, normalizer, pre_tokenizer, decoder)


PREPEND = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
KINDS = {
    "llama2_legacy": (bpe, PREPEND, None, [*SPELLED, FIRST_BLANK], LLAMA2),
    "llama2": (
        bpe, None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), [*SPELLED, FIRST_BLANK], LLAMA2,
    ),
    "mistral1": (bpe, PREPEND, None, [*SPELLED, FIRST_BLANK], MISTRAL1),
    "mistral2": (bpe, None, pre_tokenizers.Metaspace(prepend_scheme="always"), [*SPELLED, FIRST_BLANK], MISTRAL1),
    "mistral3": (bpe, None, pre_tokenizers.Metaspace(prepend_scheme="first"), [*SPELLED, FIRST_BLANK], MISTRAL3),
    "gemma": (bpe, normalizers.Replace(" ", "▁"), None, SPELLED, GEMMA),
    "gemma3": (bpe, normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), SPELLED, GEMMA),
    "unigram": (unigram, None, pre_tokenizers.Metaspace(), [decoders.Metaspace()], GEMMA),
    "prefix_space": (
        bpe, None,
        pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(True)]),
        [*SPELLED, FIRST_BLANK], MISTRAL3,
    ),
}  # fmt: skip


def made(kind, folder, **config):
    make, normalizer, pre_tokenizer, decoder, template = KINDS[kind]
    engine = make(normalizer, pre_tokenizer, decoders.Sequence(decoder))
    engine.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    engine.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    Tokenizer(engine, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | config,
              ChatTemplate(template)).save(folder)  # fmt: skip
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder))
    return load_tokenizer(folder), theirs


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return {kind: made(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


TEXT = (
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=("Cs", "Cc", "Co"), include_characters="\n"), max_size=6),
            st.sampled_from(
                [" the cat", "the", " ", "  ", "\n\n", "قطة", "🙂", " <tool> x", "<tool>", "▁", ".", " sat"]
            ),
        ),
        min_size=1,
        max_size=5,
    )
    .map("".join)
    .filter(lambda text: not any(token in text for token in SPECIALS))
)  # plain text here, and not there
SAID = TEXT.filter(lambda text: text.strip() and "▁" not in text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(text=TEXT)
def test_a_plain_text(both, kind, text):
    ours, theirs = both[kind]
    assert [*ours.beginning, *ours.encode(text)] == theirs.encode(text)
    ids = ours.encode(text)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert "".join(stream_text(ours, ids)) == ours.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(questions=st.tuples(SAID, SAID), answers=st.tuples(SAID, SAID))
def test_a_conversation(both, kind, questions, answers):
    ours, theirs = both[kind]
    messages = [
        m for q, a in zip(questions, answers, strict=True) for m in (Message("user", q), Message("assistant", a))
    ]
    plain = [{"role": m.role, "content": m.content} for m in messages]
    prompt = ours.encode_prompt(messages[:1])
    assert prompt == list(theirs.apply_chat_template(plain[:1], add_generation_prompt=True)["input_ids"])
    ids, mask = ours.encode_chat(messages)
    assert ids.count(ours.id_of("<s>")) <= (2 if KINDS[kind][4] is LLAMA2 else 1)
    last = ours.encode_prompt(messages[:-1])
    assert ids[: len(last)] == last
    assert ids[: len(last)] + ours.encode_completion(answers[1]) == ids[: len(ids) - mask[::-1].index(True)]
    whole = list(theirs.apply_chat_template(plain)["input_ids"])
    if "<tool>" not in "".join(answers):  # which takes the text at its side with it in none of the decoders
        assert theirs.decode(ids) == theirs.decode(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_usual_answers_have_the_ids_of_the_whole(both, kind):
    """No merge goes over the place where an answer begins: then cutting there changes no id."""
    ours, theirs = both[kind]
    messages = [
        Message("user", "the cat?"), Message("assistant", "sat on the mat. 🙂\n\nand  قطة <tool> x"),
        Message("user", " who?"), Message("assistant", "me"),
    ]  # fmt: skip
    whole = theirs.apply_chat_template([{"role": m.role, "content": m.content} for m in messages])["input_ids"]
    ids, mask = ours.encode_chat(messages)
    assert ids == list(whole)
    runs = "".join("x" if trained else " " for trained in mask).split()
    assert len(runs) == 2
    learned = "".join(ours.decode([i for i, trained in zip(ids, mask, strict=True) if trained]).split())
    assert learned.startswith("satonthemat.") and learned.endswith("xme") and "who" not in learned


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_streams_join_to_the_decoded_text_whatever_the_ids(both, kind, data):
    ours, _ = both[kind]
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=12))
    assert "".join(stream_text(ours, ids)) == ours.decode(ids)
    before = ours.encode("the cat")
    assert "".join(stream_text(ours, ids, before)) == ours.decode([*before, *ids])[len(ours.decode(before)) :]


def test_blanks_that_control_tokens_take_with_them_are_taken(tmp_path):
    """Phi-3's ``<|assistant|>`` takes the line end behind it."""
    engine = bpe(normalizers.Replace(" ", "▁"), None, decoders.Sequence(SPELLED), SPECIALS[:3])
    taking = [AddedToken(f"<|{name}|>", special=True, normalized=False, rstrip=True) for name in ("user", "bot", "end")]
    engine.add_special_tokens([*taking, AddedToken("<|left|>", special=True, normalized=False, lstrip=True)])
    source = (
        "{% for m in messages %}{{ ('<|bot|>\n' if m.role == 'assistant' else '<|user|>\n') + m.content }}"
        "{{ ' \n<|left|>' + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|bot|>\n' }}{% endif %}"
    )
    Tokenizer(engine, {"eos_token": "</s>"}, ChatTemplate(source)).save(tmp_path)
    ours, theirs = load_tokenizer(tmp_path), transformers.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    messages = [Message("user", " the cat "), Message("assistant", " sat\n\n"), Message("user", "?")]
    for prompt in (False, True):
        found = ours.encode_prompt(messages) if prompt else ours.encode_chat(messages)[0]
        plain = [{"role": m.role, "content": m.content} for m in messages]
        assert found == list(theirs.apply_chat_template(plain, add_generation_prompt=prompt)["input_ids"])


def test_a_blank_before_every_word_stays_in_a_cut_text(tmp_path):
    """T5's rules: words are cut at blanks first, and each gets one of its own."""
    words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    engine = bpe(None, words, decoders.Sequence([decoders.Metaspace()]))
    Tokenizer(engine, {"eos_token": "</s>", "bos_token": "<s>"}, ChatTemplate(MISTRAL3)).save(tmp_path)
    ours, theirs = load_tokenizer(tmp_path), transformers.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    messages = [Message("user", "the cat"), Message("assistant", "sat on")]
    plain = [{"role": m.role, "content": m.content} for m in messages]
    assert ours.encode_chat(messages)[0] == list(theirs.apply_chat_template(plain)["input_ids"])


TALK = (
    "{% for m in messages %}{{ ('assistant: ' if m.role == 'assistant' else 'user: ') + m.content + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.mark.parametrize("normalized", [None, False, True])
@pytest.mark.parametrize("left", [False, True])
def test_the_ends_of_texts_are_stripped_and_no_cut_is_one(tmp_path, left, normalized):
    """``normalized``: of an added word, before which a text goes on, or not."""
    stripped = normalizers.Sequence([normalizers.Strip(left=left, right=True), normalizers.Replace(" ", "▁")])
    engine = bpe(stripped, None, decoders.Sequence(SPELLED))
    if normalized is not None:
        engine.add_tokens([AddedToken(word, special=False, normalized=normalized) for word in ("user", "zed", "ant")])
    Tokenizer(engine, {"eos_token": "</s>", "bos_token": "<s>"}, ChatTemplate(TALK)).save(tmp_path)
    ours, theirs = load_tokenizer(tmp_path), transformers.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    for answer in ("\n\nhe sat ", "z zed cat", *(["\nzed zed "] if normalized else []), "a zed \n"):
        messages = [Message("user", "the cat "), Message("assistant", answer)]
        plain = [{"role": m.role, "content": m.content} for m in messages]
        ids, _ = ours.encode_chat(messages)
        assert ids == list(theirs.apply_chat_template(plain)["input_ids"])
        prompt = ours.encode_prompt(messages[:1])
        assert prompt[-1] == ours.id_of("▁") and prompt + ours.encode_completion(answer) == ids


def test_byte_level_with_a_prefix_space(tmp_path):
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    engine.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens(SPECIALS)
    Tokenizer(engine, {"eos_token": "</s>", "bos_token": "<s>"}, ChatTemplate(MISTRAL3)).save(tmp_path)
    ours, theirs = load_tokenizer(tmp_path), transformers.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    messages = [Message("user", "the cat"), Message("assistant", "sat on"), Message("user", "x")]
    plain = [{"role": m.role, "content": m.content} for m in messages]
    assert ours.encode_chat(messages)[0] == list(theirs.apply_chat_template(plain)["input_ids"])
    assert ours.encode("the cat") == theirs.encode("the cat")
