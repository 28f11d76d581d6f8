"""A pipeline's folder as the pipeline leaves it, small: for the report's tests and to look at the page."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from lit_llm.evaluation.ledger import Ledger
from lit_llm.evaluation.scores import Scores, measured
from lit_llm.lineage import lineage

PARENTS = {
    "pretraining": (),
    "continued_pretraining": ("pretraining",),
    "fine_tuning": ("continued_pretraining",),
    "instruction_tuning": ("fine_tuning",),
    "rankings": ("instruction_tuning",),
    "reward_modeling": ("instruction_tuning", "rankings"),
    "ppo": ("instruction_tuning", "reward_modeling"),
    "dpo": ("instruction_tuning", "rankings"),
}
HOSTILE = "</dd><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
ARABIC = "تحسب هذه الدالة المتوسط الحسابي لعناصر القائمة ثم تعيد النتيجة."


def value(mean: float, se: float, n: int = 200) -> dict[str, float]:
    return {"mean": mean, "se": se, "n": n}


def make_pipeline(folder: Path, steps: int = 120) -> Path:
    """Writes every stage of ``PARENTS`` with metrics, curves and a lineage that holds, a ledger and answers."""
    for order, (name, parents) in enumerate(PARENTS.items()):
        stage = folder / name
        (made := made_by(folder, name)).mkdir(parents=True, exist_ok=True)
        (made / ("rankings.jsonl" if name == "rankings" else "model.safetensors")).write_bytes(name.encode() * 50)
        if name != "rankings":
            (stage / "metrics.json").write_text(json.dumps(metrics(name, order)))
            curves(stage / "tensorboard", name, steps)
        lineage.record(
            made,
            stage=name,
            config={"seed": 0},
            parents={role: made_by(folder, role) for role in parents},
            data={"fingerprint": "f" * 64, "counts": {}, "files": []},
            metrics={},
            tokenizer={},
            simulated=name == "rankings",
        )
    summary = {"seconds": 800, "stages": {"rankings": {"seconds": 21.5, "reused": True}}}
    (folder / "pipeline.json").write_text(json.dumps(summary))
    (folder / "ledger.json").write_text(json.dumps(ledger()))
    (folder / "answers.json").write_text(json.dumps(answers()))
    return folder


def made_by(folder: Path, name: str) -> Path:
    return folder / name / ("" if name == "rankings" else "model")


def metrics(name: str, order: int) -> dict:
    bits = 2.9 - 0.12 * order
    heldout = {"general": {"bits_per_byte": value(bits, 0.011), "perplexity": value(31.2, 0.9)}}
    before = {"general": {"bits_per_byte": value(bits + 0.12, 0.012), "perplexity": value(31.0, 0.9)}}
    counts = {"read": 12345, "used": 12300, "skipped": {"duplicate": 40, "empty": 5}}
    result = {"stage": name, "seconds": 40 + 31 * order, "tokens": 400_000 * (8 - order), "steps": 120}
    result |= {"parameters": 3_412_992, "heldout": heldout, "before": before, "counts": counts}
    if name == "fine_tuning":
        heldout["task_pairs"] = {"rougeL": value(0.31, 0.01), "exact_match": value(0.08, 0.019)}
        before["task_pairs"] = {"rougeL": value(0.09, 0.01), "exact_match": value(0.0, 0.0)}
        result["floors"] = {
            "task_pairs": {"first_sentence": {"rougeL": value(0.24, 0.01) | {"above": value(0.07, 0.02)}}}
        }
    return result


def curves(folder: Path, name: str, steps: int) -> None:
    writer = SummaryWriter(str(folder))
    for step in range(steps):
        wave = 0.15 * math.sin(step * 1.7)
        writer.add_scalar("train/loss", 2.5 + 5 * math.exp(-step / 25) + wave, step)
        writer.add_scalar("train/bits_per_byte", 1.4 + 2 * math.exp(-step / 25) + wave / 3, step)
        writer.add_scalar("train/lr", 3e-3 * min(step / 10, 1 - step / steps), step)
        writer.add_scalar("train/tokens_per_second", 9000 + 300 * wave, step)
        if step % 20 == 19:
            writer.add_scalar("val/general/loss", 2.7 + 5 * math.exp(-step / 25), step)
            writer.add_scalar("val/general/bits_per_byte", 1.5 + 2 * math.exp(-step / 25), step)
        if name == "ppo":
            writer.add_scalar("objective/kl", 0.06 * step + 0.2 * abs(wave), step)
            writer.add_scalar("objective/scores", 2.2 * (1 - math.exp(-step / 40)) + wave, step)
            writer.add_scalar("objective/rule", 1.4 * (1 - math.exp(-step / 40)) + wave, step)
            writer.add_scalar("policy/entropy", 3 - step / 80, step)
            writer.add_scalar("objective/eos_rate", 0.5 + step / (2 * steps), step)
            writer.add_scalar("objective/response_length", 40 - step / 10, step)
    writer.close()


def ledger() -> dict:
    """Of the real Ledger, on made-up items: domain text is gained, then partly forgotten, then kept."""
    rng = np.random.default_rng(0)
    items, noise = rng.normal(2.1, 0.3, 200), lambda: rng.normal(0, 0.02, 200)
    result, level = Ledger(), {"pretraining": 0.0, "continued_pretraining": -0.31, "fine_tuning": -0.23}
    for stage, change in {**level, "instruction_tuning": -0.23}.items():
        values = measured(range(200), items + change + noise())
        scores = Scores("domain", "documents", {"bits_per_byte": values}, {n: str(n) for n in range(200)})
        result.add(stage, next(iter(PARENTS[stage]), None), [scores])
    return result.as_json()


def answers() -> dict:
    prompts = ["What does the function `statistics.mean` do?", "ماذا تفعل الدالة mean؟", HOSTILE]
    stages = [name for name in PARENTS if name not in ("rankings", "reward_modeling")]
    texts = {
        stage: [
            f"It returns the arithmetic mean of data ({stage}).\n\nIf data is empty, StatisticsError is raised.",
            ARABIC,
            HOSTILE,
        ]
        for stage in stages
    }
    texts["pretraining"][0] = "mean mean the the the \ud800 \x00 \u202e reversed"
    return {"prompts": prompts, "answers": texts}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished pipeline's folder. Tests that change it take ``pipeline`` instead."""
    return make_pipeline(tmp_path_factory.mktemp("pipeline") / "run", steps=80)


@pytest.fixture
def pipeline(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def arabic():
    return ARABIC


@pytest.fixture
def hostile():
    return HOSTILE
