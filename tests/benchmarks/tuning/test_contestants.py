"""What the benchmarks of preference and instruction tuning give to every contestant is the same, and ours can do it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.agreement import demand
from benchmarks.contestants import Shape
from benchmarks.instruction import work as instruction
from benchmarks.instruction.conversations import Source as Conversations
from benchmarks.instruction.conversations import packed
from benchmarks.preference import here as preference_here
from benchmarks.preference import work as preference
from benchmarks.preference.comparisons import Source, pairs
from benchmarks.race import Result
from benchmarks.started import without_start

from lit_llm.errors import UserError

SMALL = {"hidden_size": 16, "layers": 1, "heads": 2, "vocab_size": 300, "max_length": 64, "max_new_tokens": 4}


def work(**more: object) -> preference_here.Work:
    given = {**SMALL, "comparisons": 4, "batch": 2, "samples": 2, **more}
    return replace(preference.Settings(**given).work, precision="32-true")  # type: ignore[arg-type]


def test_drawn_comparisons_depend_on_the_seed_alone_and_fit() -> None:
    source = Source(None, 30, 3, 300, 64)
    rows = source.rows()
    assert pairs(rows) == pairs(source.rows()) != pairs(Source(None, 30, 3, 300, 64, seed=1).rows())
    assert len(pairs(rows)) == 30 * 3
    assert max(len(prompt) + max(len(one), len(other)) for prompt, one, other in pairs(rows)) <= 64


def test_comparisons_of_a_file_are_pairs_of_its_rankings(tmp_path) -> None:
    file = tmp_path / "rankings.jsonl"
    row = {"prompt": "Which one?", "completions": ["this one", "that one", "none"], "ranking": [2, 1, 3]}
    file.write_text("\n".join(json.dumps({**row, "prompt": f"Which of {n}?"}) for n in range(40)))
    ranked = Source(file, 5, 3, 300, 128).rows()
    found = pairs(ranked)
    assert len(found) == 15
    judged = ranked.comparisons[0].ranks
    best = ranked[0].completions[judged.index(1)].tolist()
    assert [chosen for _, chosen, _ in found[:2]] == [best, best]
    assert work(path=file, max_length=128).pairs_a_step == 2 * 3  # whatever completions= says of drawn ones
    with pytest.raises(UserError, match="comparisons without a tie; 500 are needed"):
        Source(file, 500, 3, 300, 128).rows()


@pytest.mark.parametrize("kind", list(preference.KINDS))
def test_a_call_is_an_epoch_that_can_be_repeated(kind: str) -> None:
    more = {"cached": False} if kind == "dpo" else {}
    epoch = getattr(preference_here, kind)(work(), **more)
    before = [parameter.clone() for parameter in epoch.stage.model.parameters()]
    epoch()
    epoch()
    assert epoch.units == (8 if kind == "grpo" else 4)
    assert len(epoch.starts) == 2 and 0 < epoch.numbers()["start_seconds"] < 5
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(before, epoch.stage.model.parameters(), strict=True))
    if kind in ("dpo", "reward"):
        assert epoch.numbers()["gradient"] > 0 and epoch.numbers()["margin"] != 0


@pytest.mark.parametrize("kind", ["dpo", "reward", "grpo"])
def test_trl_has_the_same_first_step(kind: str) -> None:
    pytest.importorskip("trl")
    from benchmarks.preference import trl as preference_trl

    variants = {"dpo": [{"cached": False}, {"cached": True, "by_length": True}], "reward": [{}, {"by_length": True}]}
    for more in variants.get(kind, [{}]):
        given = work(completions=3, max_new_tokens=8)
        theirs = getattr(preference_trl, kind)(given, **more)
        ours = getattr(preference_here, kind)(given, **{key: more[key] for key in more if key != "by_length"})
        theirs()
        assert theirs.units == ours.units and 0 < theirs.numbers()["start_seconds"] < 5
        assert (kind == "grpo") == (not ours.first)
        assert theirs.first == pytest.approx(ours.first, rel=1e-3)


@pytest.mark.parametrize("packing", ["padded", "bfd", "bfd row by row"])
def test_trl_has_the_same_loss_of_the_conversations(packing: str) -> None:
    pytest.importorskip("trl")
    source = Conversations(None, 20, 300, 64)
    given = instruction.Work(Shape(16, 1, 2, 300, 64, 4, qk_norm=False), source, "32-true")
    ours, theirs = instruction.here(given), instruction.theirs(given, packing)
    theirs()
    assert theirs.units == ours.units
    assert theirs.first == pytest.approx(ours.first, rel=1e-4)


def test_packing_keeps_every_trained_token_of_the_conversations() -> None:
    source = Conversations(None, 20, 300, 64)
    rows = packed(source.conversations(), 64)
    wanted = sum(sum(trained) for _, trained in source.conversations())
    assert sum(int((row.labels >= 0).sum()) for row in (rows[n] for n in range(len(rows)))) == wanted
    epoch = instruction.here(instruction.Work(Shape(16, 1, 2, 300, 64, 4, qk_norm=False), source, "32-true"))
    epoch()
    assert epoch.numbers()["trained"] == wanted


def test_what_makes_no_race_is_one_line() -> None:
    with pytest.raises(UserError, match="kinds=sft: must be of dpo"):
        preference.Settings(kinds=("sft",))
    with pytest.raises(UserError, match="comparisons=10: must be a multiple of batch=4"):
        preference.Settings(comparisons=10, batch=4)
    with pytest.raises(UserError, match="kinds=: must be of dpo"):
        preference.Settings(kinds=())
    for work_of in (preference, instruction):
        with pytest.raises(UserError, match=r"path=nowhere\.jsonl: is no file"):
            work_of.Settings(path=Path("nowhere.jsonl"))


@pytest.mark.parametrize(
    ("kinds", "unit"), [(("dpo", "reward"), "comparisons"), (("ppo",), "answers"), (("dpo", "grpo"), None)]
)
def test_the_unit_is_what_is_counted(kinds: tuple[str, ...], unit: str | None) -> None:
    assert preference.Settings(kinds=kinds).unit == (unit or "comparisons or answers")


def test_the_start_of_a_call_is_taken_off_its_time() -> None:
    numbers = {"start_seconds": 0.5, "call_units": 10.0}
    (left,) = without_start([Result("trl", (10.0, 5.0), numbers=numbers)])
    assert left.rounds == (20.0, 10 / 1.5)
    with pytest.raises(UserError, match=r"trl: a call takes no longer than its start of 0\.50 s"):
        list(without_start([Result("trl", (20.0,), numbers=numbers)]))


def test_who_computes_something_else_is_named() -> None:
    keys = ("loss", "margin", "gradient")
    ours = Result("here", (1.0,), numbers={"loss": 2.0, "margin": -0.1, "start_seconds": 1.0})
    demand([ours, Result("trl", (1.0,), numbers={"loss": 2.001, "margin": -0.1, "start_seconds": 9.0})], keys, 1e-3)
    for other in ({"loss": 2.1}, {"margin": 0.1}, {"loss": float("nan")}):
        with pytest.raises(UserError, match=r"trl: .* they do not compute the same"):
            demand([ours, Result("trl", (1.0,), numbers=other)], keys, 1e-3)
