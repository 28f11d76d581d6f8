"""What a chat template does with an assistant's text: found by rendering probes, never by reading its source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lit_llm.errors import UserError
from lit_llm.records import Message

if TYPE_CHECKING:
    from lit_llm.text.chat import ChatTemplate
    from lit_llm.text.tokenizer import Tokenizer

_PRIVATE = range(0xF0000, 0x10FFFE)  # code points that mean nothing in any text
_QUESTION, _ANSWER = "q7x", "a7y"


@dataclass(frozen=True)
class Habits:
    """The same for every conversation.

    ``generation_prompt`` invites the assistant; ``unwritten_prompt`` is that text where the template itself ignores
    ``add_generation_prompt``; ``lead`` is what stands between it and the text (the blank of Llama 2, the empty
    reasoning of Qwen3), which a model has to write itself; ``end_text`` runs from the text to its end token.
    """

    generation_prompt: str
    unwritten_prompt: str
    lead: str
    end_text: str
    end_token: int | None
    trims: bool  # blanks around an assistant's text are cut away
    control: re.Pattern[str]
    inside: re.Pattern[str]

    @classmethod
    def of(cls, template: ChatTemplate, tokenizer: Tokenizer) -> Habits:
        def render(*messages: Message, prompt: bool = False) -> str:
            return template.render(messages, prompt=prompt, bos=tokenizer.bos_token, eos=tokenizer.eos_token)

        user, padded = Message("user", _QUESTION), f"\n {_ANSWER} \n"
        asked, invited = render(user), render(user, prompt=True)
        full = render(user, Message("assistant", _ANSWER))
        at = full.rfind(_ANSWER)
        if at < len(invited) or not full.startswith(invited):
            raise UserError(
                "chat template: an assistant's turn does not begin with the generation prompt "
                f"({invited[-40:]!r} against {full[-60:]!r}); use a template where it does"
            )
        lead, unwritten = full[len(invited) : at], ""
        if invited == asked and lead.strip():
            lead, unwritten = "", lead
        names = sorted(tokenizer.control_tokens, key=len, reverse=True) or ["\0never\0"]
        control = re.compile("(" + "|".join(map(re.escape, names)) + ")")
        tail = full[at + len(_ANSWER) :]
        end = control.search(tail)
        return cls(
            generation_prompt=unwritten or (invited[len(asked) :] if invited.startswith(asked) else ""),
            unwritten_prompt=unwritten,
            lead=lead,
            end_text=tail[: end.end()] if end else "",
            end_token=tokenizer.control_tokens[end.group()] if end else None,
            trims=padded not in render(user, Message("assistant", padded)),
            control=control,
            inside=re.compile("(?=" + control.pattern + ")."),
        )

    def piece_ids(self, tokenizer: Tokenizer, piece: str, marks: Marks) -> list[int]:
        """Ids of a piece: the template's control tokens by name, the rest as plain text without the marks."""
        ids: list[int] = []
        for part in self.control.split(piece):
            if part in tokenizer.control_tokens:
                ids.append(tokenizer.control_tokens[part])
            elif part:
                ids += tokenizer.encode(part.replace(marks.split, ""))
        return ids


@dataclass(frozen=True)
class Marks:
    """Three characters that occur nowhere in a conversation.

    They stand where an assistant's text begins, where it ends, and inside the control tokens that users wrote.
    """

    start: str
    end: str
    split: str

    @classmethod
    def unlike(cls, *texts: str) -> Marks:
        """Private-use characters that none of the texts holds."""
        used = {c for text in texts if not text.isascii() for c in text if ord(c) >= _PRIVATE.start}
        free = (chr(c) for c in _PRIVATE if chr(c) not in used)
        return cls(next(free), next(free), next(free))

    def wrap(self, message: Message, habits: Habits) -> str:
        """A message's text as the template gets it: its control tokens broken, an assistant's limits marked."""
        content = habits.inside.sub(lambda found: found.group() + self.split, message.content)
        if message.role == "assistant":
            return f"{self.start}{content.strip() if habits.trims else content}{self.end}"
        core = content.strip()  # blanks stay outside, where a template can trim them
        if not core:
            return content
        at = content.index(core)
        return f"{content[:at]}{self.split}{core}{self.split}{content[at + len(core) :]}"

    def strip(self, text: str) -> str:
        return text.replace(self.start, "").replace(self.end, "")

    def spans(self, text: str, habits: Habits, answers: int) -> Iterator[tuple[int, int]]:
        """Where the assistants write: from the end of the generation prompt to the end token, as (begin, stop)."""
        place = 0
        for _ in range(answers):
            close = text.find(self.end, place)
            if close < 0:
                raise UserError("chat template: it drops or rewrites an assistant's message; use one that keeps them")
            begin = text.find(self.start, place, close)
            if begin < 0:  # the template cut the beginning away (a reasoning part)
                found = text.rfind(habits.generation_prompt, place, close)
                begin = found + len(habits.generation_prompt) if found >= 0 and habits.generation_prompt else place
            elif habits.lead and text.endswith(habits.lead, place, begin):
                begin -= len(habits.lead)
            stop = close + len(self.end)
            if habits.end_text and text.startswith(habits.end_text, stop):
                stop += len(habits.end_text)
            yield begin, stop
            place = stop
