"""Waiting for people: until there are enough, no longer than there can be any, and never lost."""

from __future__ import annotations

import logging
import signal

import pytest

from lit_llm.feedback import people
from tests.small_project import project, rank_one


def test_it_waits_until_there_are_enough(monkeypatch, tmp_path, caplog):
    counts, place = iter([0, 1, 1, 3]), tmp_path / "p.db"
    monkeypatch.setattr(people, "ranked", lambda _: (next(counts), 9))
    with caplog.at_level(logging.INFO):
        assert people.wait(place, 3, 0.001) == 3
    assert f"python scripts/rank.py project={place}" in caplog.text and "0 of 3" in caplog.text
    monkeypatch.setattr(people, "ranked", lambda _: (5, 9))
    assert people.wait(place, 3, 0.001) == 5, "without a word when there is nothing to wait for"


def test_done_goes_on_with_what_is_there_and_not_with_nothing(monkeypatch, tmp_path):
    place, seen = tmp_path / "p.db", []

    def ranked(_):
        seen.append(1)
        if len(seen) == 2:
            place.with_suffix(".done").touch()
        return int(len(seen) > 3), 100

    monkeypatch.setattr(people, "ranked", ranked)
    assert people.wait(place, 100, 0.001) == 1 and len(seen) == 4


def test_a_termination_ends_the_wait_whatever_the_stages_before_left(monkeypatch, tmp_path):
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    counts = iter([0, 0, 5])
    monkeypatch.setattr(people, "ranked", lambda _: (next(counts), 9))
    try:
        people.wait(tmp_path / "p.db", 5, 0.001)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ctrl_c_ends_with_one_line(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(people, "ranked", lambda _: (2, 9))

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(people, "sleep", interrupted)
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as end:
        people.wait(tmp_path / "p.db", 5, 0.001)
    assert end.value.code == 130 and "stopped at 2 of 5 rankings; nothing is lost" in caplog.text


def test_it_waits_for_no_more_than_the_project_can_give(tmp_path, monkeypatch, caplog):
    project(place := tmp_path / "p.db")  # two items, one place each
    monkeypatch.setattr(people, "sleep", lambda _: rank_one(place))
    with caplog.at_level(logging.INFO):
        assert people.wait(place, 200, 0.001) == 2
    assert "places for 2 rankings" in caplog.text and "0 of 2" in caplog.text


def test_another_overlap_reaches_the_project_that_is_there(tmp_path):
    project(place := tmp_path / "p.db")
    how = {"model": "m", "prompts": "p", "k": 2, "temperature": 1.0, "max_new_tokens": 4, "max_prompts": None}
    people.ask(place, **how, overlap=3, seed=0, batch_size=4, device="cpu")
    assert people.ranked(place) == (0, 6)
