"""What a reward model's folder needs of its tokenizer, so that transformers scores the token that is scored here.

Here a score is read at an answer's last token, its end token. transformers takes the last token that is not the pad
token: a pad token that ends a turn moves it. And its ``apply_chat_template`` writes what a template puts behind the end
of a turn (a line break, a second end), which no reward model saw. So the folder's pad token is one that ends nothing,
and its template stops at the end of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer as Engine

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.text.chat import ChatTemplate
from lit_llm.text.tokenizer import Tokenizer

USUAL = ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>", "<|fim_pad|>", "<unk>", "[UNK]")
SPARE = ("pad", "reserved", "unused")  # in the names of tokens that nothing is written with
NUL = ("Ā", "<0x00>")  # the byte 0, as byte-level and byte-fallback vocabularies write it: no text holds it
_PROBE = (Message("user", "q7x"), Message("assistant", "a7y"))


def scoring_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer of the same ids whose pad token ends nothing and whose template ends with the answer's end token."""
    engine = Engine.from_str(tokenizer.engine.to_str())  # a token that becomes the pad token is marked in the copy only
    config = {**tokenizer.config, "pad_token": pad_token(tokenizer)}
    template = ChatTemplate(_source(tokenizer))
    return type(tokenizer)(engine, config, template, tokenizer.stop_ids)


def pad_token(tokenizer: Tokenizer) -> str:
    """The tokenizer's own pad token where it ends nothing, else the one that is least likely to be written anywhere.

    Raises UserError for a vocabulary of end tokens alone.
    """
    ends = set(tokenizer.end_ids)
    for name in _candidates(tokenizer):
        found = tokenizer.id_of(name)
        if found is not None and found not in ends:
            return name
    raise UserError("tokenizer: every token ends a turn; a reward model needs one more to pad with")


def _candidates(tokenizer: Tokenizer) -> Iterator[str]:
    yield tokenizer.pad_token
    yield from USUAL
    control = [name for name, _ in sorted(tokenizer.control_tokens.items(), key=lambda item: item[1])]
    yield from (name for name in control if any(part in name.lower() for part in SPARE))
    written = (tokenizer.bos_token, tokenizer.chat.source)
    yield from (name for name in control if name not in written[0] and name not in written[1])
    yield from control
    yield from NUL
    for index in reversed(range(tokenizer.vocab_size)):  # learned last, or rarest
        name = tokenizer.engine.id_to_token(index)
        if name is not None:
            yield str(name)


def _source(tokenizer: Tokenizer) -> str:
    """The template's source, what it writes behind the end of a last answer cut off."""
    chat = tokenizer.chat
    tail = _tail(chat, tokenizer)
    if not tail:
        return chat.source
    quoted = "".join(c if c.isascii() and (c.isalnum() or c in "<|>_ ") else f"\\U{ord(c):08x}" for c in tail)
    source = (  # the empty texts keep Jinja from trimming line breaks beside its own tags
        f"{{%- set rendered %}}{{{{- '' }}}}{chat.source.removesuffix(chr(10))}{{{{ '' -}}}}{{% endset -%}}"
        "{%- if not add_generation_prompt and messages and messages[-1]['role'] == 'assistant' -%}"
        f"{{{{- rendered.removesuffix('{quoted}') -}}}}{{%- else -%}}{{{{- rendered -}}}}{{%- endif -%}}"
    )
    return source if _says_the_same(chat, ChatTemplate(source), tokenizer, tail) else chat.source


def _tail(chat: ChatTemplate, tokenizer: Tokenizer) -> str:
    """What follows the end token of the last answer; nothing where a template writes no end token."""
    end = chat.end_token(tokenizer)
    if end is None:
        return ""
    name = str(tokenizer.engine.id_to_token(end))
    text = _rendered(chat, tokenizer, _PROBE)
    return text[text.index(name, text.rindex(_PROBE[-1].content)) + len(name) :]


def _says_the_same(old: ChatTemplate, new: ChatTemplate, tokenizer: Tokenizer, tail: str) -> bool:
    cases = [(_PROBE[:1], True, ""), (_PROBE[:1], False, ""), (_PROBE, False, tail), (_PROBE * 2, False, tail)]
    return all(
        _rendered(old, tokenizer, messages, prompt) == _rendered(new, tokenizer, messages, prompt) + cut
        for messages, prompt, cut in cases
    )


def _rendered(chat: ChatTemplate, tokenizer: Tokenizer, messages: tuple[Message, ...], prompt: bool = False) -> str:
    return chat.render(messages, prompt=prompt, bos=tokenizer.bos_token, eos=tokenizer.eos_token)
