"""Chat templates: a conversation to ids, and to the mask of what the assistant has to learn.

A template is rendered once, with private marks around the assistants' texts and inside any control token that a user
wrote. The rendered text is cut at real control tokens and at the places where an assistant begins and ends to write;
the pieces are encoded as plain text. Hence three guarantees, for any template:

- a control token in a message stays plain text;
- the ids of the prompt are an exact prefix of the ids of prompt and answer;
- the mask is right whether or not the template has ``{% generation %}`` marks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from lit_llm.records import Message
from lit_llm.text.sandbox import Sandbox, worded
from lit_llm.text.template_habits import Habits, Marks

if TYPE_CHECKING:
    from lit_llm.text.tokenizer import Tokenizer

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

PLAIN = """\
{%- for message in messages %}
{{- message['role'] | capitalize + ': ' }}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'] + eos_token }}{% endgeneration %}
{%- else %}
{{- message['content'] }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'Assistant: ' }}
{%- endif %}
"""
"""For a base model whose vocabulary has no ChatML tokens: no new tokens are needed."""


class ChatTemplate:
    """One template for training, generation and chat.

    Args:
        source: Jinja, in the dialect of Hugging Face models.

    Raises:
        UserError: the template does not compile, or is beyond the bounds of ``sandbox.py``.
    """

    def __init__(self, source: str = CHATML) -> None:
        self.source = source
        self._sandbox = Sandbox()
        with worded():
            self._template = self._sandbox.from_string(source)
        self._habits: WeakKeyDictionary[Tokenizer, Habits] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[ChatTemplate], tuple[str]]:
        return ChatTemplate, (self.source,)  # to the workers of a loader: the environment does not travel

    # ---- what the other rooms use ----------------------------------------------------------------------------------

    def encode(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and which of them are trained: each assistant's text and its end token.

        Where a template writes no end token, the tokenizer's follows the last answer: a model always learns to stop.
        """
        ids: list[int] = []
        mask: list[bool] = []
        habits, marks = self.habits(tokenizer), self._marks(messages)
        pieces = list(self._pieces(tokenizer, messages, marks, prompt=False))
        ends = habits.end_token is None and bool(messages) and messages[-1].role == "assistant"
        for piece, trained in pieces[:-1] if ends else pieces:
            found = habits.piece_ids(tokenizer, piece, marks)
            ids += found
            mask += [trained] * len(found)
        return ([*ids, tokenizer.turn_end_id], [*mask, messages[-1].trained]) if ends else (ids, mask)

    def encode_prompt(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """Ids up to where the assistant begins to write: an exact prefix of ``encode(messages + answer)``."""
        habits, marks = self.habits(tokenizer), self._marks(messages)
        pieces = self._pieces(tokenizer, messages, marks, prompt=True)
        return [i for piece, _ in pieces for i in habits.piece_ids(tokenizer, piece, marks)]

    def encode_completion(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Ids of one answer with its end token: what follows ``encode_prompt`` in ``encode``."""
        ids, mask = self.encode(tokenizer, (Message("user", "x"), Message("assistant", text)))
        return [i for i, trained in zip(ids, mask, strict=True) if trained]

    def end_token(self, tokenizer: Tokenizer) -> int | None:
        """The id of the control token that closes an assistant's turn, or None if the template writes none."""
        return self.habits(tokenizer).end_token

    def render(self, messages: Sequence[Message], *, prompt: bool = False, bos: str = "", eos: str = "") -> str:
        """The text that transformers' ``apply_chat_template(tokenize=False)`` gives."""
        written = [{"role": m.role, "content": m.content} for m in messages]
        variables = {"messages": written, "add_generation_prompt": prompt, "bos_token": bos, "eos_token": eos}
        with worded():
            return self._sandbox.render_text(self._template, variables)

    # ---- how -------------------------------------------------------------------------------------------------------

    def habits(self, tokenizer: Tokenizer) -> Habits:
        """What the template writes around an assistant's text, found once per tokenizer by rendering probes."""
        if tokenizer not in self._habits:
            self._habits[tokenizer] = Habits.of(self, tokenizer)
        return self._habits[tokenizer]

    def _marks(self, messages: Sequence[Message]) -> Marks:
        return Marks.unlike(self.source, *(m.content for m in messages))

    def _pieces(
        self, tokenizer: Tokenizer, messages: Sequence[Message], marks: Marks, prompt: bool
    ) -> Iterator[tuple[str, bool]]:
        """The rendered text in pieces that are encoded apart: (text, trained). The last one is what follows all."""
        habits = self.habits(tokenizer)
        written = [Message(m.role, marks.wrap(m, habits)) for m in messages]
        text = self.render(written, prompt=prompt, bos=tokenizer.bos_token, eos=tokenizer.eos_token)
        if prompt:
            text += habits.unwritten_prompt
        begun, answers = 0, [message for message in messages if message.role == "assistant"]
        for answer, (begin, stop) in zip(answers, marks.spans(text, habits, answers=len(answers)), strict=True):
            yield marks.strip(text[begun:begin]), False
            yield marks.strip(text[begin:stop]), answer.trained
            begun = stop
        yield marks.strip(text[begun:]), False
