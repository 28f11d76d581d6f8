"""What chat templates need of a tokenizer, and what finding out a template's format needs of the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.text.places import Place


class Encoder(Protocol):
    """A tokenizer, as far as a chat template uses it."""

    engine: Any
    """The ``tokenizers.Tokenizer``."""

    @property
    def control_tokens(self) -> Mapping[str, int]: ...

    @property
    def named_tokens(self) -> dict[str, str]: ...

    @property
    def blank_takers(self) -> tuple[frozenset[str], frozenset[str]]: ...

    @property
    def turn_end_id(self) -> int: ...

    def encode(self, text: str, place: Place = Place.START, goes_on: bool = False) -> list[int]: ...


class Template(Protocol):
    """A chat template, as far as probes are rendered by it."""

    def written(self, tokenizer: Encoder, messages: Sequence[Message], *, prompt: bool) -> str: ...

    def refusal(self, what: str) -> UserError: ...
