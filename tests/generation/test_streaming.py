"""Invariant: a stream gives the tokens that generate gives, and its pieces join to the text, character by character."""

import copy

import pytest

from lit_llm.errors import UserError
from lit_llm.generation.sampling import completions, generate, respond
from lit_llm.generation.streaming import decoder_of, stream, stream_text
from lit_llm.records import Message


def test_a_stream_equals_a_batch(small_model, tokenizer):
    prompt = tokenizer.encode("The cat")
    options = {"max_new_tokens": 30, "end_ids": tokenizer.end_ids, "temperature": 0.0}
    streamed = list(stream(small_model, prompt, **options))
    assert streamed == completions(generate(small_model, [prompt], **options))[0]


def test_the_seed_decides_and_the_end_is_not_given(small_model):
    def run(seed, end_ids):
        return list(stream(small_model, [5, 6], max_new_tokens=20, end_ids=end_ids, seed=seed))

    whole = run(1, ())
    assert whole == run(1, ()) and whole != run(2, ()) and len(whole) == 20
    end = whole[7]
    assert run(1, (end,)) == whole[: whole.index(end)]


def test_the_context_ends_a_stream(small_model):
    assert len(list(stream(small_model, [5] * 120, max_new_tokens=99, end_ids=()))) == 8
    with pytest.raises(UserError, match="holds 128"):
        list(stream(small_model, [5] * 128, max_new_tokens=9, end_ids=()))
    with pytest.raises(UserError, match="empty"):
        list(stream(small_model, [], max_new_tokens=9, end_ids=()))


def test_weights_that_are_no_numbers_are_an_error(small_model):
    broken = copy.deepcopy(small_model)
    broken.backbone.norm.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        next(stream(broken, [5, 6], max_new_tokens=9, end_ids=()))


@pytest.mark.parametrize("text", ["قطة صغيرة", "🙂🙂 ok", "日本語", "plain"])
def test_pieces_are_whole_characters(tokenizer, text):
    ids = [*text.encode()]  # one id a byte: the hardest case
    ids = [next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == bytes([b])) for b in ids]
    pieces = list(stream_text(tokenizer, [*ids, tokenizer.turn_end_id]))
    assert "".join(pieces) == text and "\ufffd" not in "".join(pieces)
    assert all(len(piece) == 1 for piece in pieces)


def test_a_cut_character_is_shown_as_such_at_the_end(tokenizer):
    first = next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"\xd9")
    assert list(stream_text(tokenizer, [first])) == ["\ufffd"]


def test_respond_answers_each_conversation(small_model, tokenizer):
    conversations = [
        [Message("user", "hi")],
        [Message("user", "The cat"), Message("assistant", "sat"), Message("user", "on")],
    ]
    texts = respond(small_model, tokenizer, conversations, max_new_tokens=8, samples=2)
    assert len(texts) == 4 and all(isinstance(text, str) for text in texts)
    assert texts == respond(small_model, tokenizer, conversations, max_new_tokens=8, samples=2, batch_size=1)
    assert not any("<|im_end|>" in text for text in texts)


def test_one_decoder_serves_several_streams_and_need_not_hold_the_model(small_model):
    options = {"max_new_tokens": 20, "end_ids": (), "seed": 3}
    fresh = [list(stream(small_model, prompt, **options)) for prompt in ([5, 6], [7])]
    model = copy.deepcopy(small_model)
    decoder = decoder_of(model, consume=True)
    assert not any(parameter.numel() for parameter in model.backbone.layers.parameters())
    assert [list(stream(decoder, prompt, **options)) for prompt in ([5, 6], [7])] == fresh


def test_a_decoder_s_own_room_ends_a_stream(small_model):
    decoder = decoder_of(small_model, positions=12)
    whole = list(stream(small_model, [5, 6, 7], max_new_tokens=40, end_ids=(), seed=3))
    assert list(stream(decoder, [5, 6, 7], max_new_tokens=40, end_ids=(), seed=3)) == whole[:9]
    with pytest.raises(UserError, match="holds 12"):
        next(stream(decoder, [5] * 12, max_new_tokens=1, end_ids=()))
    with pytest.raises(ValueError, match="a prompt of 12 tokens; from 1 to 11 leave room for one more"):
        decoder.begin([5] * 12)
