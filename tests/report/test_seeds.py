"""The table over seeds: means, ranges, and what does not hold over the seeds is told apart from what does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lit_llm.errors import UserError
from lit_llm.report.reading import read_pipeline
from lit_llm.report.seeds import FILE, markdown, seed_rows, write_over_seeds


def make_run(folder: Path, bits: tuple[float, float], flagged: tuple[float, float], best: tuple[float, float]) -> Path:
    """A pipeline with one stage, two measures before and after, and best of 16."""
    (folder / "ppo" / "model").mkdir(parents=True)

    def scores(at: int) -> dict:
        return {"general": {"bits_per_byte": {"mean": bits[at], "se": 0.04, "n": 9}}} | {
            "prompts": {"score/flagged": {"mean": flagged[at], "se": 0.03, "n": 200}}
        }

    (folder / "ppo" / "metrics.json").write_text(json.dumps({"before": scores(0), "heldout": scores(1), "seconds": 3}))
    points = [{"n": n, "kl": 0.0, "gold": {"mean": value, "se": 0.01, "n": 9}, "proxy": None} for n, value in
              zip((1, 16), best, strict=True)]  # fmt: skip
    (folder / "best_of_n.json").write_text(json.dumps({"points": points}))
    (folder / "pipeline.json").write_text(json.dumps({"seconds": 60, "stages": {"ppo": {"seconds": 3}}}))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        make_run(tmp_path / "0", bits=(2.0, 1.5), flagged=(0.50, 0.40), best=(0.60, 0.70)),
        make_run(tmp_path / "1", bits=(2.2, 1.6), flagged=(0.42, 0.44), best=(0.62, 0.69)),
        make_run(tmp_path / "2", bits=(1.8, 1.7), flagged=(0.46, 0.36), best=(0.58, 0.65)),
    ]


def test_means_and_ranges_of_what_every_run_measured(folders: list[Path]):
    rows = {row.measure: row for row in seed_rows([read_pipeline(folder) for folder in folders])}
    bits = rows["general/bits_per_byte"]
    assert bits.before is not None and bits.change is not None
    assert (bits.before.mean, bits.before.low, bits.before.high) == pytest.approx((2.0, 1.8, 2.2))
    assert (bits.after.mean, bits.after.low, bits.after.high) == pytest.approx((1.6, 1.5, 1.7))
    assert (bits.change.low, bits.change.high) == pytest.approx((-0.6, -0.1))
    assert bits.error == pytest.approx(0.04)
    best = rows["prompts/gold"]
    assert best.stage == "best of 16" and best.after.mean == pytest.approx(0.68)


def test_a_gain_that_one_seed_turns_round_is_not_called_one(folders: list[Path]):
    rows = {row.measure: row for row in seed_rows([read_pipeline(folder) for folder in folders])}
    assert rows["general/bits_per_byte"].verdict == "better in all"  # fewer bits are better
    assert rows["prompts/score/flagged"].verdict == "differs by seed"
    worse = {row.measure: row for row in seed_rows([read_pipeline(folders[1]), read_pipeline(folders[1])])}
    assert worse["prompts/score/flagged"].verdict == "worse in all"


def test_a_measure_that_one_run_lacks_is_left_out(folders: list[Path]):
    (folders[2] / "best_of_n.json").unlink()
    measures = [row.measure for row in seed_rows([read_pipeline(folder) for folder in folders])]
    assert "prompts/gold" not in measures and "general/bits_per_byte" in measures


def test_the_table_is_written_with_its_times(folders: list[Path], tmp_path: Path):
    text = write_over_seeds(tmp_path, folders).read_text()
    assert text == markdown([read_pipeline(folder) for folder in folders]) == (tmp_path / FILE).read_text()
    assert "| ppo | general/bits_per_byte | 2.000 (1.800 to 2.200) | 1.600 (1.500 to 1.700) |" in text
    assert "| all steps | seconds | | 60 (60 to 60) |" in text


def test_a_step_that_was_reused_has_no_time(folders: list[Path]):
    reused = {"seconds": 60, "stages": {"ppo": {"seconds": 0.01, "reused": True}}}
    (folders[0] / "pipeline.json").write_text(json.dumps(reused))
    assert "seconds |" not in markdown([read_pipeline(folder) for folder in folders])


def test_one_run_has_no_range(folders: list[Path], tmp_path: Path):
    with pytest.raises(UserError, match="needs at least two"):
        write_over_seeds(tmp_path, folders[:1])


def test_a_step_that_one_chain_left_out_is_named(folders: list[Path]):
    skipped = {"seconds": 60, "stages": {}, "skipped": {"dpo": "it needs rankings"}}
    (folders[1] / "pipeline.json").write_text(json.dumps(skipped))
    text = markdown([read_pipeline(folder) for folder in folders])
    assert "1: dpo was left out, so it has no row: it needs rankings" in text
