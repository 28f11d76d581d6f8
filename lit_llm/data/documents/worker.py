"""The process that reads documents for another one, within a bound of memory and of time, without net and programs.

A document is a stranger's: it may be made to fill the memory, to never end, or to misuse a mistake in a parser. What
happens here ends here. Over standard input comes a line of JSON (kind, encoding, size) and the document's bytes; a
line of JSON with the result goes back.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Any

from lit_llm.runtime.parent import end_with

MEMORY = 3 * 2**30  # bytes of address space
SECONDS = 60  # of a processor, for a document, and
SECONDS_PER_MIB = 20  # for each MiB of it
MOST_SECONDS = 900
_REFUSED = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile",
            "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.utime", "os.setxattr",
            "os.link", "os.symlink", "os.truncate",
            "shutil.", "ftplib.", "http.client.", "urllib.Request", "smtplib.", "webbrowser.")  # fmt: skip

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND  # flags of ``open``, whatever its mode says


def seconds_for(size: int) -> int:
    """Seconds of a processor that a document of so many bytes may take."""
    return min(SECONDS + SECONDS_PER_MIB * size // 2**20, MOST_SECONDS)


def main() -> None:
    """Reads documents until standard input ends. Its argument: the process that asks, with which it ends."""
    end_with(int(sys.argv[1]), by_thread=True)
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what a library prints is no answer
    _bound_memory()
    from lit_llm.data.documents import reader

    sys.addaudithook(_refuse)
    while line := requests.readline():
        task = json.loads(line)
        data = requests.read(task["size"])
        _bound_time(seconds_for(len(data)))
        answer = _answer(reader, task, data)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _answer(reader: Any, task: dict[str, Any], data: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = reader.read(task["kind"], data, task["encoding"])
        return found
    except reader.Unreadable as error:
        return {"reason": error.reason, "what": str(error)}
    except RecursionError:
        return {"reason": "document_bomb", "what": "nested too deep"}
    except MemoryError:
        return {"reason": "document_too_big", "what": f"reading it takes more than {MEMORY >> 30} GiB of memory"}
    except Exception as error:  # a parser's own mistake: this document is left out, and the others are read
        return {"broken": f"{type(error).__name__}: {error}"}


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
    if writes or event.startswith(_REFUSED):
        raise PermissionError(f"{event}: a document may not")


def _bound_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # a platform without such bounds
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        bound = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (bound, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _bound_time(seconds: int) -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        usage = resource.getrusage(resource.RUSAGE_SELF)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + seconds + 1, hard))


if __name__ == "__main__":
    main()
