"""What a chat template does with an assistant's text: found by rendering probes, never by reading its source."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.text.interfaces import Encoder, Template

_QUESTION, _ANSWER = "q7x", "a7y"


@dataclass(frozen=True)
class TurnFormat:
    """What holds for short conversations; each conversation is checked for itself (``turns.py``).

    ``generation_prompt`` invites the assistant; ``unwritten_prompt`` is that text where the template itself ignores
    ``add_generation_prompt``; ``leads`` may stand between it and an answer (nothing, the blank of Llama 2, the empty
    reasoning of Qwen3), longest first: a model has to write them itself. ``end_text`` runs from an answer to its end
    token, the last of several that stand together (Cohere: the response ends, then the turn).
    """

    generation_prompt: str
    unwritten_prompt: str
    leads: tuple[str, ...]
    end_text: str
    end_token: int | None
    trims_end: bool  # blanks behind an assistant's text are cut away
    control: re.Pattern[str]
    inside: re.Pattern[str]

    @property
    def ends(self) -> list[str]:
        """The control tokens in ``end_text``."""
        return self.control.findall(self.end_text)

    @classmethod
    def of(cls, template: Template, tokenizer: Encoder) -> TurnFormat:
        """Raises UserError for a template that fails on the simplest conversation, or leaves its answer out."""
        before: tuple[Message, ...] = ()

        def render(*messages: Message, prompt: bool = False) -> str:
            return template.written(tokenizer, (*before, *messages), prompt=prompt)

        user, answer = Message("user", _QUESTION), Message("assistant", _ANSWER)
        try:
            full = render(user, answer)
        except UserError:  # a template may ask for a system message
            before = (Message("system", "s7z"),)
            try:
                full = render(user, answer)
            except UserError:
                before = ()
                full = render(user, answer)
        asked, invited, past = render(user), render(user, prompt=True), render(user, answer, user)
        at = full.rfind(_ANSWER)
        if at < 0:
            raise template.refusal("it drops or rewrites an assistant's message; use one that keeps them")
        leads, unwritten = {""}, ""
        if full.startswith(invited) and at >= len(invited):
            lead = full[len(invited) : at]
            if invited == asked and lead.strip():
                unwritten = lead
            else:
                leads.add(lead)
        invitation = unwritten or (invited[len(asked) :] if invited.startswith(asked) else "")
        place = past.find(_ANSWER)
        if invitation and place >= 0 and (found := past.rfind(invitation, 0, place)) >= 0:
            lead = past[found + len(invitation) : place]
            leads |= set() if _QUESTION in lead else {lead}
        names = sorted(tokenizer.control_tokens, key=len, reverse=True) or ["\0never\0"]
        control = re.compile("(" + "|".join(map(re.escape, names)) + ")")
        tail = full[at + len(_ANSWER) :]
        behind = past[place + len(_ANSWER) :] if place >= 0 else ""
        end_text = _end_of(tail, behind, "" if unwritten else invitation, control)
        last = control.findall(end_text)
        padded = f"{_ANSWER} \n"
        return cls(
            generation_prompt=invitation,
            unwritten_prompt=unwritten,
            leads=tuple(sorted(leads, key=len, reverse=True)),
            end_text=end_text,
            end_token=tokenizer.control_tokens[last[-1]] if last else None,
            trims_end=padded not in render(user, Message("assistant", padded)),
            control=control,
            inside=re.compile("(?=" + control.pattern + ")."),
        )


def _end_of(tail: str, past: str, invitation: str, control: re.Pattern[str]) -> str:
    """What an answer ends with: all to the first control token behind it, and those right behind that which end past
    turns too and begin none. Without an invitation it is not known what begins a turn."""
    end = control.search(tail)
    if end is None:
        return ""
    stop, begins = end.end(), set(control.findall(invitation))
    while begins and (more := control.match(tail, stop)) and more.group() not in begins:
        if not past.startswith(tail[: more.end()]):
            break
        stop = more.end()
    return tail[:stop]
