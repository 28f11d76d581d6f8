r"""Problems whose answer can be verified: what is asked, and the final answer as the tag ``answer``.

GSM8K (``question``, ``answer`` that ends with ``#### 72``), MATH (``problem``, ``solution`` with ``\boxed{72}``), and
plain ``prompt`` (or ``messages`` that end with the user's) with ``answer``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lit_llm.data.conversations import CONTEXT, check_order, in_context, prompt_of, text_of, untrained
from lit_llm.data.preference_formats import tags_of
from lit_llm.data.row_errors import RowError
from lit_llm.records import Prompt

ASKED = ("question", "prompt", "problem", "messages")
ANSWERS = ("answer", "solution")
LONGEST = 200  # characters of an answer that a program can compare; a longer one is an explanation


def problem(value: Mapping[str, Any], where: str) -> Prompt:
    """One of ``ASKED`` with one of ``ANSWERS``; the other short fields are tags too.

    A long answer without a mark is left out: it is a text to imitate, and no program says whether another is as good.
    So is one that is null.
    """
    asked = next(key for key in ASKED if key in value)
    tags = tags_of(value, (asked, *ANSWERS, "completion", *CONTEXT))
    for key in ANSWERS:
        if value.get(key) is not None and "answer" not in tags:
            answer = final_answer(_answer(value[key], key, where))
            tags |= {"answer": answer} if len(answer) <= LONGEST else {}
    told = in_context(value, prompt_of(value[asked], asked, where), where)
    return Prompt(check_order(untrained(told), "user", where), where, tags)


def final_answer(text: str) -> str:
    r"""What stands behind the last ``####``, else from the last ``\boxed{`` on, else all of it."""
    _, mark, behind = text.rpartition("####")
    if mark:
        return behind.strip().split("\n", 1)[0].strip()
    at = text.rfind("\\boxed{")
    return text[at:].strip() if at >= 0 else text.strip()


def _answer(value: Any, key: str, where: str) -> str:
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        raise RowError("wrong_type", f"{where}: '{key}' is {value}; a text or a number is needed")
    answer = str(value) if isinstance(value, int | float) else text_of(value, key, where)
    if not final_answer(answer):
        raise RowError("empty_turn", f"{where}: '{key}' has nothing behind its ####; the final answer is needed there")
    return answer
