"""Everybody prepares the same text; here all of it becomes rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from benchmarks.preparation.preparers import Datasets, Here, HereAgain, LitGPT, Preparer
from benchmarks.preparation.work import Settings, _inputs, _without_start
from benchmarks.race import Result

from lit_llm.errors import UserError
from lit_llm.text import pretokenization
from lit_llm.text.bpe import train_bpe
from lit_llm.text.control_tokens import DOCUMENT_END

LENGTH = 32


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("preparation")
    (folder / "text").mkdir()
    texts = [f"Text number {number} of thirty, which says a few words more. " * 40 for number in range(30)]
    for number, text in enumerate(texts):
        (folder / "text" / f"{number:02d}.txt").write_text(text, encoding="utf-8")
    made = train_bpe(texts, 400, show_progress=False)
    made.config["bos_token"] = DOCUMENT_END
    made.save(folder / "tokenizer")
    return folder / "text", folder / "tokenizer"


@pytest.fixture(autouse=True)
def all_cores_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_setaffinity", raising=False)  # the tests' process goes on after the contestant


def prepared(contestant: Preparer) -> float:
    contestant()
    return contestant.numbers()["tokens"]


def test_all_of_the_text_becomes_rows_the_first_time_and_from_the_cache(inputs: tuple[Path, Path]) -> None:
    here, again = Here(*inputs, LENGTH, 1), HereAgain(*inputs, LENGTH, 1)
    assert here.units == pytest.approx(sum(file.stat().st_size for file in inputs[0].iterdir()) / 1e6)
    tokens = prepared(here)
    assert tokens > 30 * 40 * 12
    assert prepared(again) == prepared(again) == tokens


def test_datasets_makes_as_many_tokens_but_for_the_ends_of_its_batches(inputs: tuple[Path, Path]) -> None:
    pytest.importorskip("datasets")
    ours, theirs = prepared(Here(*inputs, LENGTH, 1)), prepared(Datasets(*inputs, LENGTH, 1, "document"))
    assert abs(ours - theirs) < 30 + LENGTH


def test_what_starting_processes_takes_is_told_apart() -> None:
    result = Result("litgpt", (1.0, 2.0), numbers={"MB": 10.0, "start_seconds": 4.0})
    (without,), notes = _without_start([Result("here", (9.0, 9.0)), result])
    assert without.rounds == pytest.approx((10 / 6, 10 / 1)) and not notes
    none, (note,) = _without_start([replace(result, rounds=(1.0, 3.0))])
    assert not none and "4.0 seconds" in note


def test_every_call_builds_its_tables_anew(inputs: tuple[Path, Path]) -> None:
    known = pretokenization._compiled("a pattern")
    Here(*inputs, LENGTH, 1)()
    assert pretokenization._compiled("a pattern") is not known


def test_litgpt_gets_as_many_processes_as_cores(inputs: tuple[Path, Path]) -> None:
    pytest.importorskip("litgpt")
    pytest.importorskip("litdata")
    asked: list[int] = []
    with patch("litdata.optimize", lambda num_workers, **_: asked.append(num_workers)):
        LitGPT(*inputs, LENGTH, 3)()
    assert asked == [3, 1]  # one file is held out


def test_a_text_that_is_no_text_is_named(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.txt: cannot be read"):
        _inputs(Settings(text=tmp_path), tmp_path)


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text="):
        Settings(text=tmp_path)
