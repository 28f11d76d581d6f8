"""The Modelfile: the template in Go where the model's is known, the system message, what ends an answer."""

from __future__ import annotations

import re

import pytest

from lit_llm.export.ollama import CHATML_GO, PLAIN_GO, go_template, modelfile
from lit_llm.records import Message
from lit_llm.text.chat import CHATML, PLAIN, ChatTemplate
from lit_llm.text.tokenizer import Tokenizer
from tests.export.conftest import small_tokenizer

SMOL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATS = [
    [Message("user", "Hi")],
    [Message("system", "S"), Message("user", "a\nb"), Message("assistant", "c"), Message("user", "d")],
]


def with_template(source: str) -> Tokenizer:
    plain = small_tokenizer()
    return Tokenizer(plain.engine, plain.config, ChatTemplate(source))


def go(template: str, messages: list[Message]) -> str:
    """What Go's text/template makes of the few constructions that the templates here use."""
    head, body, tail = re.fullmatch(
        r"(.*?)\{\{- range \.Messages \}\}(.*)\{\{ end \}\}(.*)", template, re.DOTALL
    ).groups()
    text = head
    for message in messages:
        turn = body
        if "{{ if" in turn:
            cases = re.split(r"\{\{ (?:else )?if eq \.Role \"(\w+)\" \}\}|\{\{ else \}\}|\{\{ end \}\}", turn)
            named = {cases[1]: cases[2], cases[3]: cases[4]}
            turn = named.get(message.role, cases[6])
        text += turn.replace("{{ .Role }}", message.role).replace("{{ .Content }}", message.content)
    return text + tail


@pytest.mark.parametrize(("source", "expected"), [(CHATML, CHATML_GO), (PLAIN, PLAIN_GO % "<|im_end|>")])
def test_the_go_template_writes_what_the_model_was_trained_on(source, expected):
    tokenizer = with_template(source)
    found, system = go_template(tokenizer)
    assert (found, system) == (expected, "")
    for messages in CHATS:
        assert go(found, messages) == tokenizer.chat.render(messages, prompt=True, eos=tokenizer.eos_token)
    text = modelfile("small-Q8_0.gguf", tokenizer)
    assert text.startswith("FROM ./small-Q8_0.gguf\n") and f'TEMPLATE """{found}"""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text and 'PARAMETER stop "<|endoftext|>"' in text


def test_a_system_message_of_the_template_s_own_is_ollama_s_too():
    tokenizer = with_template(SMOL)
    assert go_template(tokenizer) == (CHATML_GO, "You are helpful.")
    assert 'SYSTEM """You are helpful."""' in modelfile("a.gguf", tokenizer)
    asked = [Message("system", "You are helpful."), *CHATS[0]]  # as ollama adds it
    assert go(CHATML_GO, asked) == tokenizer.chat.render(CHATS[0], prompt=True)


def test_an_unknown_template_is_left_to_the_file():
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    for source in (
        SMOL.replace("user", "User").replace("message['role']", "message['role'].upper()"),
        no_system + CHATML,
    ):
        text = modelfile("a.gguf", with_template(source))
        assert "TEMPLATE" not in text and "reads the one in the GGUF file" in text and "PARAMETER stop" in text
