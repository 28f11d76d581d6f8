"""What runs out on a machine: memory and disk. Either is told in one line, with what to change; none is a traceback."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from lit_llm.errors import UserError

_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|out of memory|bad_alloc|bad allocation|not enough memory"
    r"|memory allocation of \d+ bytes|unable to allocate|failed to allocate|can't start new thread"
    r"|failed to map segment|cannot create thread|os error 12\b",
    re.IGNORECASE,
)
_KILLED = re.compile(r"worker \(pid.*\) is killed by signal: Killed|workers? .*exited unexpectedly", re.IGNORECASE)


class OutOfMemory(UserError):  # noqa: N818 (it is what happened)
    """Memory ran out: the machine's, a limit's, or a GPU's."""


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that there was no memory left."""
    return any(_says_so(each) for each in chain(error))


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "_ArrayMemoryError"):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return False
    return bool(_MEMORY.search(str(error)) or _KILLED.search(str(error)))
