"""A reward model's run from its command's configuration: its validation is kept and verified with it."""

import json
import random

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.norm import compute_dtype
from lit_llm.config.command_line import compose
from lit_llm.errors import UserError
from lit_llm.lineage.verification import verify
from lit_llm.rewards.validation.gate import RewardValidationFailed, require_passed
from lit_llm.rewards.validation.validator import RewardValidator
from lit_llm.text.bpe import train_bpe
from lit_llm.training.train import run

WORDS = ["alpha", "beta", "gamma", "delta", "open", "close", "read", "write"]
SMALL = [
    "stage=reward_modeling", "data.max_length=64", "data.micro_batch_size=8", "trainer.accelerator=cpu",
    "callbacks=none", "trainer.precision=32-true",
    "trainer.log_every_n_steps=1", "trainer.val_check_interval=1.0", "optimizer.lr=0.003",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model of nothing and 120 rankings by two annotators, who like "alpha" and little else."""
    folder, draw = tmp_path_factory.mktemp("reward"), random.Random(0)
    rows = []
    for n in range(60):
        texts = list(dict.fromkeys(" ".join(draw.choices(WORDS, k=draw.randint(2, 6))) for _ in range(4)))
        for who in ("ann", "bob"):
            worth = [text.count("alpha") + draw.gauss(0, 0.1 if who == "ann" else 0.6) for text in texts]
            ranks = [1 + sum(other > one for other in worth) for one in worth]
            rows.append({"prompt": f"{n}?", "completions": texts, "ranking": ranks, "annotator": who, "margin": 0.1})
    (folder / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.manual_seed(0)
    tokenizer = train_bpe([" ".join(WORDS)] * 4, vocab_size=290, show_progress=False)
    model = LanguageModel(from_depth(tokenizer.vocab_size, 2, hidden_size=32, num_heads=2, max_positions=96))
    save_model(folder / "model", model, tokenizer)
    return folder


def composed(place, *words):
    given = [f"init_from={place}/model", f"data.path={place}/rankings.jsonl", f"data.cache_dir={place}/cache"]
    return compose("train", [*SMALL, *given, "data.test_fraction=0.2", "data.validation_fraction=0.1", *words])


def test_the_validation_is_inside_the_model_and_verified_with_it(place, tmp_path):
    words = [
        "stage.adherence=learned",
        "data.half=first",
        "data.annotator_weights={bob: 0.5}",
        "stage.reward_validation.limit_empty=0.3",
    ]
    metrics = run(composed(place, *words), tmp_path / "run")
    model = tmp_path / "run/model"
    found = json.loads((model / "reward_validation.json").read_text())
    assert (
        metrics["reward_validation"]
        == found
        == json.loads((tmp_path / "run/metrics.json").read_text())["reward_validation"]
    )
    assert set(found["floors"]) == {"shorter_wins", "longer_wins", "tfidf_bradley_terry"} and "empty" in found["probes"]
    assert found["trained_with_attacks"] is False and found["settings"]["limit_empty"] == 0.3, (
        "what the stage was given"
    )
    held = metrics["heldout"]["rankings"]
    assert found["accuracy"]["mean"] == pytest.approx(held["accuracy"]["mean"])  # measured twice, in two ways
    assert {"accuracy_agreed", "length_correlation", "ece", "brier"} <= set(held)
    assert {"adherence/ann", "adherence/bob", "train/ece"} <= set(metrics["train"])
    assert metrics["counts"]["skipped"]["other_half"] > 0
    assert verify(model)[1] == []
    card = (model / "README.md").read_text()
    assert (
        "## Validation as a reward" in card
        and f"| an empty answer | {100 * found['probes']['empty']['share']:.1f}" in card
    )
    (model / "reward_validation.json").write_text(json.dumps({**found, "passed": True, "reasons": []}))
    assert any("reward_validation.json" in difference for difference in verify(model)[1])


def test_a_model_that_learned_nothing_fails_and_is_refused(place, tmp_path, caplog):
    caplog.set_level("INFO", "lit_llm")
    run(
        composed(place, "optimizer.lr=1e-9", "stage.reward_validation.limit_empty=0.0", "data.attacks=0.5"),
        tmp_path / "run",
    )
    assert json.loads((tmp_path / "run/model/reward_validation.json").read_text())["trained_with_attacks"] is True
    assert "it was trained with attacks of these kinds" in caplog.text
    with pytest.raises(
        RewardValidationFailed, match=r"the reward model failed its validation: .*train directly with stage=dpo"
    ):
        require_passed(tmp_path / "run/model")


def test_no_validation_is_taken_where_none_is_wanted(place, tmp_path):
    metrics = run(composed(place, "stage.reward_validation=null", "trainer.max_steps=1"), tmp_path / "run")
    assert "reward_validation" not in metrics and not (tmp_path / "run/model/reward_validation.json").exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "data.annotator_weights={anne: 1}",
            "data.annotator_weights.anne: nobody of this name ranked; did you mean ann",
        ),
        ("loss@stage.loss=plackett_luce", "loss: plackett_luce takes no margins and the data has some"),
    ],
)
def test_mistakes_are_one_line_before_the_first_step(place, tmp_path, word, message):
    with pytest.raises(UserError, match=message):
        run(composed(place, word), tmp_path / "run")


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)])
def test_the_validation_computes_in_the_precision_of_the_training(place, tmp_path, monkeypatch, precision, dtype):
    seen, take = [], RewardValidator.validate
    monkeypatch.setattr(RewardValidator, "validate", lambda *a: seen.append(compute_dtype(torch.ones(1))) or take(*a))
    run(composed(place, f"trainer.precision={precision}", "trainer.max_steps=1"), tmp_path / "run")
    assert seen == [dtype]
