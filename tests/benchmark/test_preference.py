"""What the benchmarks of preference and instruction tuning give to every contestant is the same, and ours can do it."""

from __future__ import annotations

import json

import pytest

from lit_llm.benchmark import instruction, preference, preference_here
from lit_llm.benchmark.comparisons import Source, pairs
from lit_llm.benchmark.contestants import Shape
from lit_llm.benchmark.conversations import Source as Conversations
from lit_llm.benchmark.conversations import packed
from lit_llm.errors import UserError

SMALL = {"hidden_size": 16, "layers": 1, "heads": 2, "vocab_size": 300, "max_length": 64, "max_new_tokens": 4}


def work(**more: object) -> preference_here.Work:
    settings = preference.Settings(**{**SMALL, "comparisons": 4, "batch": 2, **more})  # type: ignore[arg-type]
    return preference_here.Work(settings.config, settings.source, settings.batch, "32-true", 2, 4)


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
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(before, epoch.stage.model.parameters(), strict=True))
    if kind in ("dpo", "reward"):
        assert epoch.numbers()["gradient"] > 0 and epoch.numbers()["margin"] != 0


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
