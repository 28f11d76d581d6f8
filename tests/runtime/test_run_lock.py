"""A folder that one process holds is free when that one lets it go."""

import os
import time

from lit_llm.runtime.run_lock import RunLock


def test_a_process_that_was_forked_meanwhile_holds_nothing(tmp_path):
    """As a loader's worker, which lives on while a thread of its parent fetches one file after the other."""
    lock = RunLock(tmp_path)
    lock.__enter__()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        lock.__exit__(None, None, None)
        with RunLock(tmp_path):
            pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_forked_process_that_leaves_takes_no_lock_away(tmp_path):
    lock = RunLock(tmp_path)
    with lock:
        child = os.fork()
        if child == 0:
            lock.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        child = os.fork()
        if child == 0:
            try:
                RunLock(tmp_path).__enter__()
            except Exception:
                os._exit(7)
            os._exit(8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
