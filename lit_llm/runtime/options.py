"""What the options of all configured parts have in common. Those that a room offers stand in its ``options.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

from lit_llm.errors import UserError
from lit_llm.runtime.ranges import NAMES, Range


@dataclass(frozen=True, kw_only=True)
class Options:
    """The keys of a part of the configuration: a field each, with its type, default and comment.

    Nothing heavy is imported where they are written, so that a configuration is checked before torch is imported: by
    the fields' types, and by ``check``, which is called whenever options are made.
    """

    TARGET: ClassVar[str] = ""  # the dotted path of the class or function that takes them
    GROUP: ClassVar[str] = ""  # the group of the configuration, or the key of a part inside another one
    KEY: ClassVar[str] = ""  # what stands before a field's name in errors, where it is not the group
    GIVEN: ClassVar[tuple[str, ...]] = ()  # what its caller passes: a configuration makes a partial of it
    NEEDS: ClassVar[tuple[str, ...]] = ()  # further parts that it is made from: a policy's reward
    TAKES: ClassVar[tuple[str, ...]] = ()  # those that it can do without
    RANGES: ClassVar[Mapping[str, Range]] = {}  # of the numbers among a class's own fields

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises UserError naming the first value that makes no sense. What is said in other words than of a range is
        asked before ``super().check()``."""
        for name, known in self.ranges().items():
            value = getattr(self, name, None) if name not in NAMES else None
            for number in value if isinstance(value, list | tuple) else [value]:
                if isinstance(number, int | float) and not isinstance(number, bool) and (fault := known.fault(number)):
                    raise self.wrong(name, fault + (", or null" if getattr(type(self), name, ...) is None else ""))

    @classmethod
    @cache
    def ranges(cls) -> Mapping[str, Range]:
        """Of all fields that are numbers, or made of them."""
        parts = [vars(kind).get("RANGES", {}) for kind in reversed(cls.__mro__)]
        return {name: known for part in parts for name, known in part.items()}

    @classmethod
    def key(cls) -> str:
        """What stands before a field's name in errors; where the part stands elsewhere, its place is put there."""
        return cls.KEY or cls.GROUP

    @classmethod
    def of(cls, options: Self | None, values: Mapping[str, Any]) -> Self:
        """The options that a constructor is given, as one object or by their names."""
        if options is None:
            return cls(**values)
        if not isinstance(options, cls):
            raise TypeError(f"{options!r}: must be {cls.__name__}, or give its fields by their names")
        if values:
            raise TypeError(f"{', '.join(values)}: beside {type(options).__name__}; give it in there")
        return options

    # What checks say

    def wrong(self, name: str, said: str) -> UserError:
        return UserError(f"{self.key()}.{name}: {getattr(self, name)}; {said}")

    def one_of(self, name: str, known: Sequence[str]) -> None:
        if getattr(self, name) not in known:
            raise self.wrong(name, f"must be one of {', '.join(known)}")
