"""Invariant: every ranking is of different answers to one prompt, marked as simulated, and as sure as its annotator."""

import json

import numpy as np
import pytest

from lit_llm.backbone.huggingface import save_model
from lit_llm.data.options import DataOptions
from lit_llm.data.reading import read_records
from lit_llm.errors import UserError
from lit_llm.evaluation.statistics import mean
from lit_llm.feedback.agreement import agreement
from lit_llm.feedback.simulated import ANNOTATORS, Annotator, collect, describe, rank_answers
from lit_llm.records import Message, Prompt

PROMPT = Prompt((Message("user", "What does numpy.cross do?"),))
ANSWERS = [
    "It returns the cross product of two arrays of vectors, along the last axis.",
    "It returns the cross product.",
    "numpy numpy",
    "Something else entirely",
]


def options(**more):
    return {"k": 3, "max_new_tokens": 12, "temperature": 1.0, "progress": False, **more}


def test_a_noiseless_annotator_follows_the_rule():
    ((_, ranks),) = rank_answers(PROMPT, ANSWERS, [Annotator("a", 0.0, 0.01)], [0])
    assert ranks == [1, 2, 4, 3]


def test_near_answers_tie_and_ranks_leave_no_gap():
    generator = np.random.default_rng(0)
    assert Annotator("a", 0.0, 0.1).ranks([0.5, 0.55, 0.9, 0.1], generator) == [2, 2, 1, 3]
    for seed in range(50):
        ranks = Annotator("a", 0.3, 0.1).ranks([0.1, 0.2, 0.3, 0.9], np.random.default_rng(seed))
        assert sorted(set(ranks)) == list(range(1, max(ranks) + 1))


def test_more_noise_is_less_agreement():
    def agrees(annotator):
        found = []
        for n in range(300):
            ((_, ranks),) = rank_answers(PROMPT, ANSWERS[:2], [annotator], [n])
            found.append(1.0 if ranks[0] < ranks[1] else 0.0)
        return mean(found).mean

    shares = [agrees(annotator) for annotator in ANNOTATORS]
    assert len(ANNOTATORS) >= 3 and shares == sorted(shares, reverse=True) and shares[0] > shares[-1] + 0.05
    assert shares[-1] > 0.5


def test_collected_rows_are_rankings(model, tokenizer, prompts, tmp_path):
    result = collect(model, str(prompts), tmp_path / "out", tokenizer=tokenizer, **options())
    rows = {s: [json.loads(line) for line in (tmp_path / "out" / f"{s}.jsonl").open()] for s in result["rows"]}
    assert set(rows) == {"train", "validation", "test"} and len(rows["train"]) == 12 * 3
    for split, members in rows.items():
        for row in members:
            assert row["simulated"] is True and row["model"] == result["model"] and row["sampling"]["seed"] == 0
            assert row["prompt"][0]["content"].startswith(f"What does {split}.")
            assert 2 <= len(set(row["completions"])) == len(row["completions"]) <= 3
            assert all(text.strip() for text in row["completions"]) and len(row["rule"]) == len(row["ranking"])
    assert {row["annotator"] for row in rows["train"]} == {a.name for a in ANNOTATORS}
    records = read_records(str(tmp_path / "out"), "comparisons", DataOptions(max_error_rate=0))
    assert records.counts.errors == 0 and all(record.simulated for record in records["train"])
    assert json.loads((tmp_path / "out" / "collection.json").read_text())["simulated"] is True
    assert "12 prompts" not in describe(result) and "19 prompts" in describe(result)


def test_the_seed_decides(model, tokenizer, prompts, tmp_path):
    def run(name, **more):
        collect(model, str(prompts), tmp_path / name, tokenizer=tokenizer, **options(**more))
        return (tmp_path / name / "train.jsonl").read_text()

    assert run("a") == run("b", batch_size=1) != run("c", seed=1)


def test_a_folder_limits_and_turns(model, tokenizer, prompts, tmp_path):
    save_model(tmp_path / "model", model, tokenizer)
    result = collect(
        tmp_path / "model", str(prompts), tmp_path / "out",
        **options(max_prompts={"train": 4, "test": 2}, annotators_per_prompt=2),
    )  # fmt: skip
    assert result["rows"] == {"train": 8, "validation": 6, "test": 4}
    names = [json.loads(line)["annotator"] for line in (tmp_path / "out" / "train.jsonl").open()]
    assert len(set(names)) == 3


def test_agreement_by_hand():
    def row(prompt, annotator, ranking, worth):
        return {"prompt": prompt, "annotator": annotator, "ranking": ranking, "rule": worth}

    rows = [
        row("p", "a", [1, 2, 3], [0.9, 0.5, 0.1]),
        row("p", "b", [1, 3, 2], [0.9, 0.5, 0.1]),  # one pair of three the other way round
        row("q", "a", [1, 1, 2], [0.2, 0.8, 0.1]),  # a tie says nothing
        row("q", "b", [1, 2, 3], [0.2, 0.8, 0.1]),
    ]
    found = agreement(rows)
    assert found["agreement"]["mean"] == pytest.approx((2 + 2) / (3 + 2)) and found["agreement"]["n"] == 2
    assert found["with_rule"]["a"]["mean"] == pytest.approx(5 / 5)
    assert found["with_rule"]["b"]["mean"] == pytest.approx((2 + 2) / 6)


def test_mistakes(model, tokenizer, prompts, tmp_path):
    with pytest.raises(UserError, match=r"annotation\.k=1"):
        collect(model, str(prompts), tmp_path / "o", tokenizer=tokenizer, k=1)
    with pytest.raises(UserError, match="two different answers"):
        collect(model, str(prompts), tmp_path / "o", tokenizer=tokenizer, **options(temperature=0.0))
    assert not (tmp_path / "o").exists()


def test_a_folder_s_model_answers_on_the_gpu_where_there_is_one(model, tokenizer, prompts, tmp_path, monkeypatch):
    save_model(tmp_path / "model", model, tokenizer)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    asked = []
    monkeypatch.setattr(
        "lit_llm.feedback.simulated.load_language_model", lambda _, device: asked.append(device) or model
    )
    collect(str(tmp_path / "model"), str(prompts), tmp_path / "out", **options())
    collect(str(tmp_path / "model"), str(prompts), tmp_path / "out", **options(device="cpu"))
    assert asked == ["cuda", "cpu"]
