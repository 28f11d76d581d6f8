"""The two generation prompts of models that reason or not as the variable ``enable_thinking`` says.

One asks for reasoning and may begin it (``<think>``); the other may say that there is none, by an empty one. Templates
write answers of past turns as they follow one of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lit_llm.errors import UserError
from lit_llm.records import Message

Render = Callable[[Sequence[Message], bool, bool | None], str]
"""Messages to text: with the invitation to answer or not, and by ``enable_thinking``, where that is not None."""


def says_there_is_none(render: Render, asked: Sequence[Message], before: str) -> bool:
    """Whether the prompt goes on behind ``before``, where an answer begins, with what says that no reasoning follows:
    prompts that ask for reasoning do not have it, and the answer stands behind it."""
    prompt = render(asked, True, None)
    more = prompt.removeprefix(before)
    if more == prompt or not more.strip():
        return False
    try:
        return not render(asked, True, True).endswith(more)
    except UserError:
        return False


def remedy(render: Render, messages: Sequence[Message]) -> str:
    """What to do about a last answer that does not begin as its prompt ends."""
    prompt = render(messages[:-1], True, None)
    for thinks, asks in ((False, "reasoning: give rows that have it"), (True, "no reasoning: give rows without it")):
        try:
            asked, whole = render(messages[:-1], True, thinks), render(messages, False, thinks)
        except UserError:
            continue
        if asked != prompt and whole.startswith(asked):
            return (
                f"its prompts ask for {asks}, or a template that does not, with {{% set enable_thinking = "
                f"{str(thinks).lower()} %}} as its first line (chat_template.jinja of the model's folder)"
            )
    return "use a template where it does, or let the answer begin as the prompt ends"
