"""Several processes of one run, as torchrun starts them; they are forked, so that torch is not imported again. What
each answers comes through a pipe."""

import io
import multiprocessing
import os
import random
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from lit_llm.runtime.parent import end_with, in_main_thread

FORK = multiprocessing.get_context("fork")


def free_port() -> int:
    """A port at which nobody listens, below those that the system itself gives away: until it is listened at, no
    connection of another process takes it."""
    told, chance = Path("/proc/sys/net/ipv4/ip_local_port_range"), random.SystemRandom()
    above = max(20_000, int(told.read_text().split()[0]) if told.exists() else 32_768)
    while True:
        port = chance.randrange(10_000, above)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:  # taken
            continue


def together(count: int, work: Callable[..., Any], *args: Any, seconds: float = 240, dies: bool = False) -> list[Any]:
    """``work(*args)`` in ``count`` processes as torchrun would start them; what it returns in each, by rank.

    ``dies``: a process may end without an answer, which is None then. Otherwise whoever fails fails the test.
    """
    port, pipes, processes = free_port(), [], []
    starter = os.getpid(), not in_main_thread()
    for rank in range(count):
        theirs, mine = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_member, args=(rank, count, port, mine, work, args, *starter))
        process.start()
        mine.close()
        pipes.append(theirs)
        processes.append(process)
    answers: list[Any] = [None] * count
    try:
        left = dict(zip(pipes, range(count), strict=True))
        while left:
            ready = wait(list(left), seconds)
            assert ready, f"processes {list(left.values())} gave no answer in {seconds} seconds"
            for pipe in ready:
                rank = left.pop(pipe)
                try:
                    answers[rank] = torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
                except EOFError:
                    assert dies, f"process {rank} died"
                assert dies or not _failed(answers[rank]), answers[rank]  # the others would wait for it
        for process in processes:
            process.join(seconds)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    for answer in answers:
        assert not _failed(answer), answer
    return answers


def _failed(answer: Any) -> bool:
    return isinstance(answer, str) and answer.startswith("Traceback")


def _member(
    rank: int, count: int, port: int, pipe: Any, work: Callable[..., Any], args: tuple[Any, ...], parent: int,
    by_thread: bool,
) -> None:  # fmt: skip
    end_with(parent, by_thread)
    torch.set_num_threads(1)
    if count > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0",
        }  # fmt: skip
    try:
        answer = work(*args)
    except BaseException:
        answer = traceback.format_exc()
    buffer = io.BytesIO()
    torch.save(answer, buffer)
    pipe.send_bytes(buffer.getvalue())
    pipe.close()
