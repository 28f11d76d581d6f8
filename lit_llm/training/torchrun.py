"""torchrun, which says of a process that ended before its time in one line which it was, and no more: the run itself
tells why it ended."""

from __future__ import annotations

import logging
import os
import signal
import sys

from lit_llm.runtime.parent import PARENT, end_with_named


def main() -> None:
    end_with_named()
    os.environ[PARENT] = str(os.getpid())  # of the processes that it starts, in sessions of their own
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        torchrun()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # by a signal: it could say nothing itself
            name = signal.Signals(-failure.exitcode).name
            print(f"process {rank} ({failure.pid}) was ended by {name}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except SignalException as error:  # whoever started this has ended it, and tells why
        raise SystemExit(128 + error.sigval) from None


if __name__ == "__main__":
    main()
