"""The checks hold the device to the processor, and what is measured stands in one table."""

import json
from dataclasses import replace

import pytest
import torch
from benchmarks.command import command
from benchmarks.gpu import work
from benchmarks.gpu.checks import EXACT, Check, _compared, checks, packed, perturbed, shapes
from benchmarks.gpu.work import Found, Part, Settings, parts, rows
from benchmarks.race import Result
from benchmarks.record import Record

from lit_llm.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_processor_passes_against_itself():
    made = list(checks(CPU, (160,)))
    names = " ".join(check.name for check in made)
    assert all(check.passed for check in made), [check for check in made if not check.passed]
    for part in (
        "window, rows of 160, packed",
        "capped scores",
        "greedy",
        "log-probabilities",
        "dpo: margin",
        "reward",
    ):
        assert part in names
    assert all(check.bound > 0 for check in made if "greedy" not in check.name)


@pytest.mark.parametrize("wrong", [0.01, float("nan")])
def test_what_is_wrong_in_float32_alone_is_found(wrong):
    def compute(model, place):
        loss = model(torch.arange(8, device=place)[None]).mean()
        broken = wrong if loss.dtype == torch.float32 and not torch.is_autocast_enabled("cpu") else 0.0
        return {"loss": (loss * (1 + broken)).detach()}

    made = list(_compared("x", compute, perturbed(shapes()["plain heads"]), CPU))
    assert [check.passed for check in made] == [False, True] and made[0].bound == EXACT
    assert not Check("y", float("nan"), 1.0).passed


def test_packed_rows_begin_anywhere():
    positions, segments = packed(2, 2048)
    starts = segments.diff(dim=1) > 0
    assert positions[:, 0].eq(0).all() and positions[:, 1:][starts].eq(0).all()
    assert positions[:, 1:][~starts].eq(positions[:, :-1][~starts] + 1).all() and 4 < int(starts.sum()) < 60


def test_a_failed_check_stops_the_command_by_its_name(monkeypatch):
    monkeypatch.setattr(work, "checks", lambda *_: iter([Check("loss", 0.5, 0.1), Check("gradient", 0.0, 0.1)]))
    with pytest.raises(UserError, match="1 of 2 checks failed: loss"):
        work.run(Settings(size="tiny", device="cpu", measure=False))


def test_a_peer_that_fails_costs_no_figure_and_time_that_is_over_is_said(monkeypatch):
    called = []

    def run(peers):
        called.append(peers)
        if peers:
            raise UserError("theirs: broken")
        return Record("x", "tokens", [], [Result("here fast", (10.0,))])

    found = Found()
    work._measure(Part("step", run), "transformers", 1.0, found)
    assert called == ["transformers", ""] and found.notes == ["step beside peers: theirs: broken"]
    assert found.rows == [("step", "fast", "10", "", "0.00", "", "")]
    monkeypatch.setattr(work, "checks", lambda *_: iter(()))
    record = work.run(Settings(size="tiny", device="cpu", minutes=1e-9))
    assert len(record.notes) == 1 + len(list(parts(Settings(size="tiny", device="cpu"))))
    assert "training step, tiny: not measured, minutes=1e-09 were over" in record.notes


def test_a_training_step_has_its_share_of_the_peak():
    shape = replace(work.SIZES["gpu"].steps["124M"], length=1024)
    results = [
        Result("here bf16", (1e5, 2e5, 3e5)),
        Result("litgpt bf16", (1e5, 1e5, 1e5)),
        Result("matmuls alone", (9e9,) * 3),
    ]
    (row,) = rows(Part("step", lambda _: None, shape, 0.55), results, 989e12)
    of_peak = 2e5 * (6 * 124e6 + 12 * 12 * 768 * 1024) / 989e12  # PaLM's formula by hand
    assert row[3].endswith("(goal 55%)") and float(row[3].partition("%")[0]) / 100 == pytest.approx(of_peak, rel=0.02)
    assert row[5:] == ("litgpt bf16", "2.00")


def test_without_a_gpu_the_large_sizes_are_refused():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match=r"there is no GPU here; size=tiny device=cpu"):
        Settings()


@pytest.mark.slow
def test_everything_is_measured_at_a_tiny_size(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    command(["gpu", "size=tiny", "device=cpu", "peers=", "rounds=1", "seconds=0.01", f"json={file}"])
    table = json.loads(file.read_text())["table"]
    assert [row[0] for row in table[1:]] == [
        "training step, tiny",
        "generation, batch 2",
        "dpo step",
        "dpo step",
        "grpo step",
    ]
    assert "checks passed" in capsys.readouterr().out
