"""Which rows a process takes: peers of a tensor-parallel group take the same."""

import pytest
import torch

from lit_llm.runtime import distributed


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
