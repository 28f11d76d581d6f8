"""All files that cannot be used in one error, so that they can be mended in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_llm.data.compression import BadFile
from lit_llm.errors import UserError

MOST = 10  # of a kind, that are named


def refusal(path: Any, bad: Sequence[BadFile]) -> UserError:
    """The error for files that stop a run: a line for each, the first ``MOST`` of a kind."""
    if len(bad) == 1:
        return UserError(f"{bad[0]} (data.on_error=skip counts such rows and goes on)")
    kinds: dict[str, list[BadFile]] = {}
    for one in bad:
        kinds.setdefault(one.reason, []).append(one)
    lines = [f"data.path={path}: {len(bad)} files cannot be read (data.on_error=skip counts them and goes on):"]
    for reason, those in kinds.items():
        lines += [f"  {one}" for one in those[:MOST]]
        lines += [f"  and {len(those) - MOST} more ({reason})"] if len(those) > MOST else []
    return UserError("\n".join(lines))
