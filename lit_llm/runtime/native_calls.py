"""Long calls into native code, during which Ctrl+C and SIGTERM are heard.

Python calls a signal's handler between two steps of its main thread, and a library that learns a vocabulary is one step
of minutes. So the call is made in a thread beside, and the main thread waits where it can be interrupted. Nothing can
end the call itself: the command ends as after any interruption, and its process then leaves without waiting for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from lit_llm.runtime.stopping import ends_without_waiting, terminated_as_interrupted

SLICE = 0.2  # seconds, in case that a signal comes to another thread


class Left(Exception):  # noqa: N818
    """Nobody waits for the call any more."""


def heard(call: Callable[[Callable[[Iterable[str]], Iterator[str]]], object]) -> None:
    """Makes ``call``, and raises what it raises, or what a signal's handler does meanwhile.

    Args:
        call: is given a function to wrap the texts that it reads with: these end, by an error, when nobody waits for
            the call any more. It must let other threads run (release the interpreter's lock).

    Outside the main thread, where no signal is heard, it is called plainly.
    """
    given_up = threading.Event()
    raised: list[BaseException] = []

    def ended_with_us(items: Iterable[str]) -> Iterator[str]:
        for item in items:
            if given_up.is_set():
                raise Left
            yield item

    def run() -> None:
        try:
            call(ended_with_us)
        except BaseException as error:
            raised.append(error)

    if threading.current_thread() is not threading.main_thread():
        call(ended_with_us)
        return
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        with terminated_as_interrupted():
            while thread.is_alive():
                thread.join(SLICE)
    except BaseException as error:
        given_up.set()
        # The interpreter, taken down under threads that the library still has at work, would be aborted by one of them.
        code = error.code if isinstance(error, SystemExit) else 130
        ends_without_waiting(code if isinstance(code, int) else 1)
        raise
    if raised:
        raise raised[0]
