"""The README's table and plot of the records that are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks.race import Result
from benchmarks.record import Goal, Record, load
from benchmarks.report.work import BEGIN, END, Settings, run

from lit_llm.errors import UserError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    results = [Result("here", (2.0, 3.0, 2.5, 2.5, 2.5), peak_gb=1.0), Result("peer | other", (1.0,) * 5, peak_gb=2.0)]
    results.append(Result("here small", (2.5,) * 5))
    goals = [
        Goal("met <this>", "here", ["peer | other"], 2.0),
        Goal("missed", "here", ["peer | other"], 4.0),
        Goal("said already", "here", ["peer | other"]),
        Goal("memory held", "here", ["peer | other"], 0.4, "memory"),
        Goal("only shown", "here small", ["peer | other"]),
        Goal("a detail", "here", ["here small"], detail=True),
    ]
    Record(
        "training",
        "tokens",
        ["A chip, two cores, two threads, load before 0.1", "torch 2"],
        results,
        goals,
        ["matmuls bound it"],
        date="2030-01-02",
        table=[["part", "loss"], ["none | all", "1.5"]],
        title="a step | two rows",
    ).save(tmp_path / "records" / "training.json")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    return Settings(tmp_path / "records", readme, tmp_path / "records" / "ratios.svg")


def test_the_table_says_ratio_spread_goal_and_what_was_missed(settings: Settings) -> None:
    run(settings)
    text = settings.readme.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "(records/ratios.svg)" in text
    assert (
        "| a step \\| two rows: met &lt;this> | here against peer \\| other | **2.50** (2.00 to 3.00) | 2 | met |"
        in text
    )
    assert "**2.50** (2.00 to 3.00) | 4 | **missed** |" in text
    assert "two rows: memory held | here against peer \\| other | **0.50** | 0.4 at most | **missed** |" in text
    assert "Measured 2030-01-02 on A chip, two cores.\n\n[" in text and "](records/README.md)." in text
    assert "only shown" in text and "said already" not in text and "a detail" not in text and "rounds only" not in text
    run(settings)
    assert settings.readme.read_text(encoding="utf-8") == text


def test_the_records_page_holds_conditions_and_every_figure(settings: Settings) -> None:
    peerless = Record("preference", "answers", [], [Result("here ppo", (2.0,) * 5)], title="alone")
    peerless.save(settings.records / "b10.json")
    replace(peerless, title="before").save(settings.records / "b9.json")
    run(settings)
    text = (settings.records / "README.md").read_text(encoding="utf-8")
    assert "(ratios.svg)" in text and "two rows: a detail | here against here small | **1.00** (0.80 to 1.20) |" in text
    assert "## a step \\| two rows\n\n2030-01-02. A chip, two cores, two threads, load before 0.1; torch 2." in text
    assert "| peer \\| other | 1 | 1 | 1 | 2.00 | 0.00 |\n" in text and "matmuls bound it." in text
    assert "\n| part | loss |\n|---|---|\n| none \\| all | 1.5 |\n" in text
    assert "| alone | here ppo, no rival | 2 answers a second | | |" in text
    assert text.index("| before |") < text.index("| alone |")  # 9 before 10


def test_each_kind_of_machine_has_a_table_and_a_plot(settings: Settings) -> None:
    """A ratio of one kind says nothing of the other; the kind with most records comes first."""
    first = load(settings.records / "training.json")
    wide = replace(first, conditions=["Chip with AVX512-BF16, 2 cores, 2 threads, load before 0.1"], kind="")
    for name in ("a", "b"):
        wide.save(settings.records / f"{name}.json")  # as before kinds were written down
    conditions = ["Chip with AVX2, 4 cores, 2 threads, load before 0.1"]
    results = [Result("here", (9.0,) * 5), *first.results[1:]]
    replace(first, conditions=conditions, results=results, kind="AVX2").save(settings.records / "training.json")
    run(settings)
    text = settings.readme.read_text(encoding="utf-8")
    wide_part, narrow_part = text.split("\n### AVX2\n")
    assert wide_part.count("### AVX512-BF16") == 1 and "AVX512" not in narrow_part
    assert "**2.50** (2.00" in wide_part and "**9.00** |" in narrow_part and "**9.00**" not in wide_part
    assert "on Chip with AVX512-BF16, 2 cores." in wide_part and "on Chip with AVX2, 4 cores." in narrow_part
    assert "(records/ratios.svg)" in wide_part and "(records/ratios_avx2.svg)" in narrow_part
    assert "9.00" in settings.picture.with_stem("ratios_avx2").read_text(encoding="utf-8")
    page = (settings.records / "README.md").read_text(encoding="utf-8")
    assert "two rows, AVX2\n" in page and page.count("two rows, AVX512-BF16\n") == 2


def test_too_few_rounds_are_said_and_a_rate_of_nothing_is_drawn(settings: Settings) -> None:
    results = [Result("here", (0.0, 0.0)), Result("peer", (1.0, 1.0))]
    Record("training", "tokens", [], results, [Goal("new", "here", ["peer"], 2.0)]).save(settings.records / "new.json")
    run(settings)
    assert "| **missed**; **2 rounds only, 5 are wanted** |" in settings.readme.read_text(encoding="utf-8")
    assert "goal 2 missed (too few rounds)" in settings.picture.read_text(encoding="utf-8")


def test_the_readme_may_lie_elsewhere(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    readme = settings.readme.rename(tmp_path / "else" / "README.md")
    run(Settings(settings.records, readme, settings.picture))
    assert "(../records/ratios.svg)" in readme.read_text(encoding="utf-8")


def test_the_plot_shows_bars_spreads_and_goals_with_better_to_the_right(settings: Settings) -> None:
    run(settings)
    picture = ElementTree.fromstring(settings.picture.read_text(encoding="utf-8"))
    kinds = [bar.get("class") for bar in picture.iter(f"{SVG}rect")]
    assert kinds == ["met", "missed", "missed", "shown", "met", "missed", "shown"]  # the last three: the legend
    bars = [float(bar.get("width", 0)) for bar in picture.iter(f"{SVG}rect")][:4]
    assert bars[0] == bars[1] == bars[3] > bars[2] > 1  # half the memory is a bar like twice the speed
    spread = next(line for line in picture.iter(f"{SVG}line") if line.get("class") == "spread")
    assert float(spread.get("x1", 0)) < float(spread.get("x2", 0))
    headings = [text.text for text in picture.iter(f"{SVG}text") if text.get("class") == "heading"]
    assert headings == ["a step | two rows"]
    assert "goal 4 missed" in (picture.get("aria-label") or "")


def test_somebody_elses_page_is_not_overwritten(settings: Settings) -> None:
    run(Settings(settings.records, settings.readme, settings.picture))
    page = settings.records / "README.md"
    page.write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match="move it away"):
        run(settings)
    assert page.read_text(encoding="utf-8") == "precious"


def test_without_marks_or_records_there_is_one_line(settings: Settings, tmp_path: Path) -> None:
    settings.readme.write_text("nothing", encoding="utf-8")
    with pytest.raises(UserError, match=r"readme=.*once each"):
        run(settings)
    with pytest.raises(UserError, match="no record with a goal"):
        run(Settings(tmp_path / "none", settings.readme, settings.picture))
