"""Corpora in small portions: what takes gigabytes elsewhere takes kilobytes here."""

import pytest

from lit_llm.data.shards import making, portions


@pytest.fixture(autouse=True)
def small_portions(monkeypatch):
    """Portions of 4 KiB, shards of files that are not cut of 6,000 characters."""
    monkeypatch.setattr(portions, "PORTION", 4096)
    monkeypatch.setattr(making, "SHARD_CHARACTERS", 6000)
    monkeypatch.setattr(making, "AT_ONCE", 1500)
