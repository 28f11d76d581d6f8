"""The options of the callback of this room, which has none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lit_llm.runtime.options import Options


@dataclass(frozen=True, kw_only=True)
class RandomStateOptions(Options):
    TARGET: ClassVar[str] = "lit_llm.checkpointing.random_state.RandomState"
    GROUP: ClassVar[str] = "callbacks"
