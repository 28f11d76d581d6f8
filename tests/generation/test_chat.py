"""Invariant: each turn is answered in the context of the ones before, and nobody is waited for."""

import io
import sys

import pytest

from lit_llm.backbone.huggingface import save_model
from lit_llm.errors import UserError
from lit_llm.generation import chat as chat_module
from lit_llm.generation.chat import Chat, ChatOptions
from lit_llm.generation.sampling import respond
from lit_llm.records import Message
from tests.forked_command import forked


@pytest.fixture
def folder(tmp_path, small_model, tokenizer):
    save_model(tmp_path / "model", small_model, tokenizer)
    return tmp_path / "model"


@pytest.fixture
def options(folder):
    return ChatOptions(folder, max_new_tokens=6, temperature=0.0, device="cpu")


def test_turns_build_a_conversation(small_model, tokenizer, options):
    chat = Chat(small_model, tokenizer, options)
    first = "".join(chat.answer("The cat"))
    second = "".join(chat.answer("قطة صغيرة"))
    asked = [Message("user", "The cat"), Message("assistant", first), Message("user", "قطة صغيرة")]
    assert chat.messages == [*asked, Message("assistant", second)]
    assert [second] == respond(small_model, tokenizer, [asked], max_new_tokens=6, temperature=0.0)
    chat.reset()
    assert chat.messages == []


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_went(small_model, tokenizer, options):
    options.temperature, options.max_new_tokens = 1.5, 40
    chat = Chat(small_model, tokenizer, options)
    pieces = chat.answer("The cat")
    said = next(pieces)
    pieces.close()
    assert chat.messages[-1] == Message("assistant", said)


def test_what_does_not_fit_is_dropped_from_the_front(small_model, tokenizer, options):
    options.system = "be brief"
    chat = Chat(small_model, tokenizer, options)
    for n in range(8):
        list(chat.answer(f"The cat sat {n}"))
    assert chat.dropped > 0 and chat.messages[0].role == "system" and chat.messages[1].role == "user"
    kept = len(chat.messages)
    with pytest.raises(UserError, match="this turn has"):
        list(chat.answer("mat " * 200))
    assert chat.messages[-1].role == "assistant" and len(chat.messages) == kept


def test_piped_input_is_answered_line_by_line(options, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("The cat\n\n/reset\nقطة\n/quit\nnever\n"))
    options.max_new_tokens = 3
    said = []
    monkeypatch.setattr(chat_module, "_say", lambda chat, text: said.append((text, len(chat.messages))))
    chat_module.run(options)
    assert [text for text, _ in said] == ["The cat", "قطة"]
    assert "(forgotten)" in capsys.readouterr().out and "> " not in capsys.readouterr().out


def test_no_input_is_the_end(options, monkeypatch, capsys):
    for nothing in (io.StringIO(""), None):
        monkeypatch.setattr(sys, "stdin", nothing)
        chat_module.run(options)
    assert capsys.readouterr().out == ""


def test_the_script_ends_with_its_input(folder):
    words = (f"model={folder}", "max_new_tokens=3", "device=cpu")
    done = forked("chat", *words, typed="The cat\nقطة\n", encoding="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 2


def test_a_wrong_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        chat_module.run(ChatOptions(tmp_path / "nothing"))
