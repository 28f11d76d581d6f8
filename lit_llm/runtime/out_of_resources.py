"""What runs out on a machine: memory and disk. Either is told in one line, with what to change; none is a traceback."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import NotWritten, disk_reason

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

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


def one_line(error: BaseException, change: str = "", kept: str = "") -> UserError | None:
    """What to tell the user of an error that memory or disk ran out of; None for any other.

    ``change``: what needs less memory, in the imperative; ``kept``: what is not lost and how to go on with it.
    """
    if isinstance(error, UserError):
        return error
    if is_out_of_memory(error):
        killed = any(_KILLED.search(str(each)) for each in chain(error))
        if not change and resource is not None and resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            change = "raise the limit"
        parts = ["a worker was killed, as the system does when memory runs out" if killed else "out of memory", peak()]
        return OutOfMemory("; ".join(part for part in (", ".join(parts), change, kept) if part))
    reason = disk_reason(error)
    if reason is None:
        return None
    named = next((each.filename for each in chain(error) if isinstance(each, OSError) and each.filename), None)
    words = [f"{named}: cannot be written ({reason})" if named else f"a file cannot be written ({reason})"]
    return UserError("; ".join(part for part in (*words, "free some space", kept) if part))


@contextmanager
def told_in_one_line(change: Callable[[], str], kept: Callable[[], str]) -> Iterator[None]:
    """Within, memory and disk that run out raise a UserError; ``change`` and ``kept`` are asked for then."""
    try:
        yield
    except NotWritten as error:
        raise UserError(f"{error}; free some space; {kept()}") from None
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error) and disk_reason(error) is None:
            raise
        for each in chain(error):  # what the frames hold is needed to go on, and be it to tell of it
            traceback.clear_frames(each.__traceback__)
        found = one_line(error, change(), kept())
        assert found is not None
        raise found from None


def peak() -> str:
    """How much memory this process had at most, and the limit where there is one."""
    gibibyte = 2**30
    words = []
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        _, total = torch.cuda.mem_get_info()
        held = torch.cuda.max_memory_allocated()
        words.append(f"at most {held / gibibyte:.2f} GiB of the GPU's {total / gibibyte:.2f} GiB were held")
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        of = f" (ulimit -v allows {limit / gibibyte:.2f} GiB of addresses)" if limit != resource.RLIM_INFINITY else ""
        words.append(f"the process had {most / gibibyte:.2f} GiB at most{of}")
    return ", ".join(words)
