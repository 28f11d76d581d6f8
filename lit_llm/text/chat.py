"""Chat templates: a conversation to ids, and to the mask of what the assistant has to learn.

The conversation is rendered and cut at the template's control tokens and where an assistant begins and ends to write
(``turns.py``); the pieces are encoded as plain text. Hence three guarantees, for any template:

- a control token in a message stays plain text;
- the ids of the prompt are an exact prefix of the ids of prompt and answer, or the conversation is refused;
- the mask is what the assistants write, tool calls and reasoning with it, whether or not the template has
  ``{% generation %}`` blocks; a conversation of which that cannot be told is refused.

So is one of which the template would leave out tools, a call, a tool's result, or the reasoning of the last turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

from lit_llm.errors import UserError
from lit_llm.records import Message, ToolCall
from lit_llm.text import thinking_prompts
from lit_llm.text.generation_blocks import without_generation_blocks
from lit_llm.text.interfaces import Encoder
from lit_llm.text.message_shapes import Given, MessageShape, in_content, thoughts_of
from lit_llm.text.own_templates import CHATML, PLAIN
from lit_llm.text.places import Place, trimmed
from lit_llm.text.sandbox import Sandbox, worded
from lit_llm.text.turn_format import TurnFormat
from lit_llm.text.turns import Renders, Said, Span, Written, alike_as_last, behind_thoughts

__all__ = ["CHATML", "PLAIN", "ChatTemplate"]


class ChatTemplate:
    """One template for training, generation and chat.

    Args:
        source: Jinja, in the dialect of Hugging Face models. Kept without ``{% generation %}``, which other engines
            than transformers do not know and nothing here needs.
        file: where it was read, for what is said about it.

    Raises:
        UserError: the template does not compile, or is beyond the bounds of ``sandbox.py``.
    """

    def __init__(self, source: str = CHATML, file: str = "") -> None:
        self.source, self.file = without_generation_blocks(source), file
        self._sandbox = Sandbox()
        with worded(self._name):
            self._template = self._sandbox.from_string(self.source)
        self._alike_ends: WeakKeyDictionary[Encoder, dict[bool, bool]] = WeakKeyDictionary()  # with calls or without
        self._turn_formats: WeakKeyDictionary[Encoder, TurnFormat] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[ChatTemplate], tuple[str, str]]:
        return ChatTemplate, (self.source, self.file)  # to the workers of a loader: the environment does not travel

    # ---- what the other rooms use ----------------------------------------------------------------------------------

    def check(self, tokenizer: Encoder) -> None:
        """Raises UserError for a template that fails on any conversation: its own fault and no row's."""
        self.turn_format(tokenizer)

    def encode(self, tokenizer: Encoder, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and which are trained: the assistants' texts and end tokens, where ``trained``.

        Where a template writes no end token, the tokenizer's follows the last answer: a model always learns to stop.

        Raises UserError where the template refuses the conversation, where it does not begin an answer as it invites
        one, and where it cannot be told what it makes of a turn that is to be trained.
        """
        messages = self._readable(messages)
        written, spans = self._conversation(tokenizer, messages)
        for number, span in spans.items():
            if span.unknown and messages[number].trained:
                raise self.refusal(span.unknown)
        if not written.exact and any(messages[number].trained for number in spans):
            raise self.refusal(
                "it takes messages apart at a control token that one of them holds; leave the token out of the message"
            )
        self._check_thoughts(messages, written, spans)
        trained = [(s.begin, s.stop, messages[n].trained) for n, s in spans.items() if not s.unknown]
        if not trained or not self._ends_here(messages, written, spans):
            return self._ids(tokenizer, written, trained)
        ids, mask = self._ids(tokenizer, written, trained, stop=trained[-1][1])
        return [*ids, tokenizer.turn_end_id], [*mask, trained[-1][2]]

    def sequences(self, tokenizer: Encoder, messages: Sequence[Message]) -> list[tuple[Message, ...]]:
        """The conversation as one or more, in which each turn that is trained reads as when a model writes it.

        Many templates write reasoning in the last turns alone, and some end the last turn otherwise than those before
        it, or those with no token at all. A conversation with such turns becomes several: each ends with a turn of
        which the longer ones leave something out, and trains the turns that read there as they do at the end of a
        conversation.
        """
        turns = [n for n, message in enumerate(messages) if message.role == "assistant" and message.trained]
        thoughtful = any(
            thoughts_of(messages[n]) and not self._remembers_thoughts[bool(messages[n].calls)] for n in turns[:-1]
        )
        alone = not turns or turns[0] == len(messages) - 1  # nothing stands behind a turn that is trained
        if not thoughtful and (alone or self._ends_alike(tokenizer, messages)):
            return [tuple(messages)]
        try:
            last = {n: self._said(tokenizer, messages[: n + 1]).get(n) for n in turns}
        except UserError:  # what is wrong is said where the conversation is encoded
            return [tuple(messages)]
        # A turn that is written without its reasoning is refused, where it is the last.
        forgotten = {n for n in turns if (one := last[n]) is not None and thoughts_of(messages[n]) not in one[0]}
        found, end = [], len(messages)
        while turns:
            said = self._said(tokenizer, messages[:end])
            alike = {n for n in turns if alike_as_last(said.get(n), last[n], whole=thoughtful)} - forgotten
            if turns[-1] not in alike and end > turns[-1] + 1:
                end = turns[-1] + 1
                continue
            alike |= {turns[-1]}
            part = [
                m if m.role != "assistant" else replace(m, trained=n in alike) for n, m in enumerate(messages[:end])
            ]
            found.append(tuple(part))
            turns = [n for n in turns if n not in alike]
            end = turns[-1] + 1 if turns else 0
        return found[::-1]

    def encode_prompt(self, tokenizer: Encoder, messages: Sequence[Message]) -> list[int]:
        """Ids up to where the assistant begins to write: an exact prefix of ``encode(messages + answer)``."""
        messages = self._readable(messages)
        written, spans = self._prompt(tokenizer, messages)
        turns = [(s.begin, s.stop, True) for s in spans.values() if not s.unknown]
        return self._ids(tokenizer, written, turns, goes_on=True)[0]

    def encode_completion(self, tokenizer: Encoder, text: str) -> list[int]:
        """Ids of one answer with its end token: what follows ``encode_prompt`` in ``encode``. Never refuses a text."""
        messages = self._readable((Message("user", "x"), Message("assistant", text)))
        try:
            written, spans = self._conversation(tokenizer, messages)
            span = spans[1]
            self._check_thoughts(messages, written, spans)
        except UserError as error:  # a model may write what the template refuses
            span = Span(unknown=str(error))
        if span.unknown:
            asked, _ = self._prompt(tokenizer, messages[:1])
            written = self._goes_on(tokenizer, asked, text)
            span = Span(len(asked.text), len(written.text))
        begin, stop = span.begin, span.stop
        ids, mask = self._ids(tokenizer, written, [(begin, stop, True)], stop=stop)
        found = [i for i, trained in zip(ids, mask, strict=True) if trained]
        return [*found, tokenizer.turn_end_id] if self.turn_format(tokenizer).end_token is None else found

    def end_token(self, tokenizer: Encoder) -> int | None:
        """The id of the control token that closes an assistant's turn, or None if the template writes none."""
        return self.turn_format(tokenizer).end_token

    def render(self, messages: Sequence[Message], *, prompt: bool = False, bos: str = "", eos: str = "") -> str:
        """The text that transformers' ``apply_chat_template(tokenize=False)`` gives."""
        return self._render(self._readable(messages), prompt, {"bos_token": bos, "eos_token": eos})

    # ---- how -------------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"chat template {self.file}" if self.file else "chat template"

    def refusal(self, what: str) -> UserError:
        """An error that names the template."""
        return UserError(what if what.startswith(self._name) else f"{self._name}: {what}")

    def _render(self, messages: Sequence[Message], prompt: bool, tokens: Mapping[str, Any]) -> str:
        shape = MessageShape() if all(message.plain for message in messages) else self._shape
        written, tools = shape.given(messages)
        return self._render_given(written, tools, prompt, tokens)

    def _render_given(self, written: Given, tools: Given | None, prompt: bool, tokens: Mapping[str, Any]) -> str:
        variables = {"messages": written, "tools": tools, "documents": None, "add_generation_prompt": prompt}
        with worded(self._name):
            return self._sandbox.render_text(self._template, {**variables, **tokens})

    @cached_property
    def _shape(self) -> MessageShape:
        """How the template takes tool calls and reasoning."""
        ends = {"bos_token": "", "eos_token": ""}
        return MessageShape.of(lambda written, tools: self._render_given(written, tools, False, ends))

    @cached_property
    def _remembers_thoughts(self) -> dict[bool, bool]:
        """Whether the reasoning of past turns is written, be it apart from the content or in it: of turns with calls
        (True) and of those without."""
        asked, past = Message("user", "q7x"), Message("assistant", "a7y", thoughts="t2s")
        call = replace(past, content="", calls=(ToolCall("n3w", '{"k4v": "v5u"}'),))
        behind = (asked, Message("assistant", "b8z"))
        result = (Message("tool", "r6t", name="n3w"), Message("assistant", "c9w"))
        known = {}
        for turn, rest in ((past, behind), (call, (*result, *behind))):
            try:
                texts = [self.render((asked, one, *rest)) for one in (turn, in_content(turn))]
                known[bool(turn.calls)] = all("t2s" in text for text in texts)
            except UserError:
                known[bool(turn.calls)] = False
        return known

    def _ends_alike(self, tokenizer: Encoder, messages: Sequence[Message]) -> bool:
        """Whether turns end as the last one does, with calls or without as the conversation has them."""
        known = self._alike_ends.setdefault(tokenizer, {})
        calling = any(message.calls for message in messages)
        if calling not in known:
            asked, answer = Message("user", "q7x"), Message("assistant", "a7y")
            call = Message("assistant", "", calls=(ToolCall("n3w", '{"k4v": "v5u"}'),))
            middle = (asked, call, Message("tool", "r6t", name="n3w"), answer) if calling else (asked, answer)
            probe = (*middle, asked, Message("assistant", "b8z"))
            try:
                said = self._said(tokenizer, probe)
                last = {n: self._said(tokenizer, probe[: n + 1]).get(n) for n in said}
                known[calling] = all(alike_as_last(said[n], last[n], whole=False) for n in said if n < len(probe) - 1)
            except UserError:  # each conversation is looked at
                known[calling] = False
        return known[calling]

    def _said(self, tokenizer: Encoder, messages: Sequence[Message]) -> dict[int, Said]:
        """What assistants write, and the control token that ends it, by their messages' numbers."""
        written, spans = self._conversation(tokenizer, self._readable(messages))
        return {
            n: (written.text[span.begin : span.stop], written.end_of(span))
            for n, span in spans.items()
            if not span.unknown
        }

    def _readable(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages, with their reasoning where the template reads it: apart from the content, or in it."""
        if not any(message.thoughts or "</think>" in message.content for message in messages):
            return messages
        return [self._shape.readable(message) for message in messages]

    def _check_whole(self, messages: Sequence[Message], written: Written, first: int = 0) -> None:
        """Raises UserError for a template that leaves out tools, a call or a result, of the message ``first`` or on."""
        if not all(message.plain for message in messages) and (what := written.left_out(messages, first)):
            raise self.refusal(f"it leaves out {what}; use a model whose template writes it, or rows without it")

    def _check_thoughts(self, messages: Sequence[Message], written: Written, spans: dict[int, Span]) -> None:
        """Raises UserError for a template that leaves out the reasoning of the last turn, which it is to train."""
        number = len(messages) - 1
        if number not in spans or not messages[number].trained or spans[number].unknown:
            return
        thoughts = thoughts_of(messages[number])
        if thoughts and thoughts not in written.text[spans[number].begin : spans[number].stop]:
            raise self.refusal("it leaves out the reasoning of the last turn; use a model that reasons")

    def written(self, tokenizer: Encoder, messages: Sequence[Message], *, prompt: bool) -> str:
        """The conversation in this tokenizer's words."""
        return self._render(messages, prompt, tokenizer.named_tokens)

    def turn_format(self, tokenizer: Encoder) -> TurnFormat:
        """What the template writes around an assistant's text, found once per tokenizer by rendering probes."""
        if tokenizer not in self._turn_formats:
            self._turn_formats[tokenizer] = TurnFormat.of(self, tokenizer)
        return self._turn_formats[tokenizer]

    def _prompt(self, tokenizer: Encoder, messages: Sequence[Message]) -> tuple[Written, dict[int, Span]]:
        """The conversation with the invitation to answer, and where assistants wrote before."""
        turn_format = self.turn_format(tokenizer)

        renders = self._renders(tokenizer, turn_format)
        written = Written.of(messages, turn_format, renders.asked, self.source)
        self._check_whole(messages, written)
        return written, written.spans(messages, turn_format, renders.asked, self.source, renders)

    def _renders(self, tokenizer: Encoder, turn_format: TurnFormat) -> Renders:
        def asked(some: Sequence[Message]) -> str:
            return self.written(tokenizer, some, prompt=True) + turn_format.unwritten_prompt

        return Renders(partial(self.written, tokenizer, prompt=False), asked)

    def _conversation(self, tokenizer: Encoder, messages: Sequence[Message]) -> tuple[Written, dict[int, Span]]:
        """The conversation and where assistants write in it; a last answer begins where its prompt ends."""
        turn_format = self.turn_format(tokenizer)

        renders = self._renders(tokenizer, turn_format)
        render = renders.closed
        written = Written.of(messages, turn_format, render, self.source)
        if len(messages) < 2 or messages[-1].role != "assistant":
            self._check_whole(messages, written)
            return written, written.spans(messages, turn_format, render, self.source, renders)
        number, last = len(messages) - 1, messages[-1]
        span = written.spans(messages, turn_format, render, self.source, renders, number)[number]
        self._check_whole(messages, written, number)
        asked, spans = self._prompt(tokenizer, messages[:-1])  # what stands before is whole in what the answer follows
        length = len(asked.text)
        if written.text.startswith(asked.text) and (span.unknown or length <= span.stop):
            span = span if span.unknown else Span(length, span.stop)
            return asked.going_on(*written.behind(length), written.exact), spans | {number: span}
        between = None if span.unknown else written.since_the_last_message(span.begin)
        # Only what stands before differs, or how the prompt says that no reasoning follows.
        same = between is not None and between == asked.since_the_last_message(length)

        def by_thinking(some: Sequence[Message], prompt: bool, thinks: bool | None) -> str:
            known = {} if thinks is None else {"enable_thinking": thinks}
            return self._render(some, prompt, {**tokenizer.named_tokens, **known})

        if not (same or span.unknown or thoughts_of(last)):
            same = thinking_prompts.says_there_is_none(by_thinking, messages[:-1], written.text[: span.begin])
        if same:
            found = asked.going_on(*written.behind(span.begin), written.exact)
            return found, spans | {number: Span(length, length + span.stop - span.begin)}
        if not last.calls and (rest := behind_thoughts(turn_format.generation_prompt, last.content)) is not None:
            found = self._goes_on(tokenizer, asked, rest)
            return found, spans | {number: Span(length, len(found.text))}
        why = (
            f"the last answer does not begin with the generation prompt ({asked.text[-40:]!r} against "
            f"{written.text[-60:]!r}); {thinking_prompts.remedy(by_thinking, messages)}"
        )
        return written, written.spans(messages, turn_format, render, self.source, renders) | {number: Span(unknown=why)}

    def _goes_on(self, tokenizer: Encoder, asked: Written, text: str) -> Written:
        """The prompt, and behind it an answer as a model writes it: the text and the end token."""
        turn_format = self.turn_format(tokenizer)
        text = text.rstrip() if turn_format.trims_end else text
        found = turn_format.control.finditer(turn_format.end_text)
        ends = [(len(text) + one.start(), len(text) + one.end()) for one in found]
        return asked.going_on(text + turn_format.end_text, ends)

    def _ends_here(self, messages: Sequence[Message], written: Written, spans: dict[int, Span]) -> bool:
        """Whether the last answer wants an end token that the template does not write."""
        number = len(messages) - 1
        return number in spans and not spans[number].unknown and not written.end_of(spans[number])

    def _ids(
        self, tokenizer: Encoder, written: Written, turns: Sequence[tuple[int, int, bool]], stop: int | None = None,
        goes_on: bool = False,
    ) -> tuple[list[int], list[bool]]:  # fmt: skip
        """Ids and mask of the text up to ``stop``, cut at its control tokens and where turns begin and end.

        ``goes_on``: an answer is to follow.
        """
        text = written.text if stop is None else written.text[:stop]
        controls = dict(c for c in written.controls if c[1] <= len(text))
        cuts = {0, len(text), *(place for begin, end, _ in turns for place in (begin, end)), *controls}
        cuts |= set(controls.values())
        learned = [(begin, end) for begin, end, trained in turns if trained]
        pieces = [
            (text[a:b], controls.get(a) == b, any(begin <= a < end for begin, end in learned))
            for a, b in pairwise(sorted(place for place in cuts if place <= len(text)))
        ]
        ids: list[int] = []
        mask: list[bool] = []
        place = Place.START
        kept = [one for one in trimmed(pieces, *tokenizer.blank_takers) if one[0]]
        more = [*(not is_control for _, is_control, _ in kept[1:]), goes_on]  # text follows, not the end of a part
        for (piece, is_control, trained), cut in zip(kept, more, strict=False):
            found = [tokenizer.control_tokens[piece]] if is_control else tokenizer.encode(piece, place, cut)
            place = Place.SECTION if is_control else Place.INSIDE
            ids += found
            mask += [trained] * len(found)
        return ids, mask

