"""Which rows a process takes: peers of a tensor-parallel group take the same. What the first one does before all."""

import os
import time

import pytest
import torch

from lit_llm.runtime import distributed
from lit_llm.runtime.distributed import first_alone, is_first_process
from tests.processes import free_port, together


@pytest.fixture
def world(monkeypatch):
    def of(rank, size):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: size)

    yield of
    distributed.take_the_same_rows(1)


def test_every_process_takes_its_own_rows_unless_it_has_peers(world):
    assert distributed.data_rank() == (0, 1)
    world(5, 8)
    assert distributed.data_rank() == (5, 8) and distributed.peers() == 1
    distributed.take_the_same_rows(2)
    assert distributed.data_rank() == (2, 4)
    world(4, 8)
    assert distributed.data_rank() == (2, 4) and distributed.peers() == 2


def test_what_is_made_from_rows_counts_once_for_each_share_of_them(world, monkeypatch):
    monkeypatch.setattr(distributed, "gathered", lambda value, world_size: [f"{value}{n}" for n in range(world_size)])
    world(1, 4)
    assert distributed.gathered_shares("x", 4) == ["x0", "x1", "x2", "x3"]
    distributed.take_the_same_rows(2)
    assert distributed.gathered_shares("x", 4) == ["x0", "x2"]


ALONE = 1.5  # seconds


def meet(folder, port):
    """When each of three meetings was over: two that the first process takes its time for, one that it fails in."""
    if port is not None:
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(port)}
    ended = []
    for _ in range(2):
        with first_alone(folder, "work") as found:
            if is_first_process():
                time.sleep(ALONE)
                ended.append(time.monotonic())
                found.word = f"at {ended[-1]}"
        ended.append(time.monotonic())
        assert found.word.startswith("at ")
    try:
        with first_alone(folder, "work"):
            if is_first_process():
                raise ValueError("the data is broken")
    except SystemExit as stop:
        return ended, stop.code
    except ValueError:
        return ended, 1
    return ended, 0


@pytest.mark.parametrize("has_store", [True, False], ids=["torchrun", "srun"])
def test_all_wait_for_what_the_first_process_does_alone(has_store, tmp_path):
    """However long it takes, and no longer than it lasts; where it fails none goes on."""
    port = free_port() if has_store else None
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=True) if has_store else None
    (first, failed), *others = together(3, meet, tmp_path, port)
    assert failed == 1
    for ended, code in others:
        assert code == 2
        for done, seen in zip(first[::2], ended, strict=True):
            assert 0 <= seen - done < 1
    del store
