"""Invariant: a held-out set as the harness measures it has the figures that our own evaluation gives."""

from __future__ import annotations

import json

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.loaded import LoadedModel
from lit_llm.backbone.models import LanguageModel
from lit_llm.evaluation.exported_tasks import export
from lit_llm.evaluation.harness import Asked, answer, load_tasks
from lit_llm.evaluation.heldout import evaluate
from lit_llm.evaluation.likelihood import completion_row, likelihoods
from lit_llm.records import Comparison, Document, Example, Heldout, Message, Prompt

pytest.importorskip("lm_eval")

QUESTION, SHORT = Message("user", "قطة؟"), Message("user", "The cat.")
SETS = [
    Heldout("general", "documents", (Document("The cat sat on the mat."), Document("قطة صغيرة جلست"), Document("x"))),
    Heldout(
        "pairs",
        "responses",
        (
            Example((SHORT, Message("assistant", "sat."))),
            Example((QUESTION, Message("assistant", "قطة"), SHORT, Message("assistant", "a log"))),
        ),
    ),
    Heldout("ranked", "rankings", (Comparison((SHORT,), ("sat.", "The mat. It sat on the mat", "قطة"), (1, 2, 2)),)),
    Heldout("asked", "prompts", (Prompt((SHORT,)),)),
]


@pytest.fixture(scope="module")
def model(tokenizer):
    """Of a context that holds the conversations: the harness keeps the end of a longer one, we its beginning."""
    torch.manual_seed(3)
    model = LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=192))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory, model, tokenizer):
    folder = tmp_path_factory.mktemp("tasks")
    found = export(folder, SETS, tokenizer, max_items=None, max_new_tokens=5)
    scores = answer(LoadedModel(model, tokenizer), load_tasks([str(folder)]), Asked())
    return found, scores


def test_the_harness_finds_what_the_own_evaluation_finds(exported, model, tokenizer):
    paths, scores = exported
    names = ["heldout_general", "heldout_pairs", "heldout_pairs_answers", "heldout_ranked"]
    assert [path.stem for path in paths] == names == sorted(scores)
    documents = evaluate(model, tokenizer, SETS[0]).as_metrics()["bits_per_byte"]
    found = scores["heldout_general"].metrics["bits_per_byte"]
    assert found.mean == pytest.approx(documents["mean"], rel=1e-5)
    assert found.se == pytest.approx(documents["se"], rel=1e-4) and found.n == documents["n"] == 3
    responses = evaluate(model, tokenizer, SETS[1], max_new_tokens=5).as_metrics()
    said = scores["heldout_pairs"].metrics["bits_per_byte"]
    assert said.mean == pytest.approx(responses["bits_per_byte"]["mean"], rel=1e-5)
    answers = scores["heldout_pairs_answers"].metrics["exact_match"]
    assert answers.mean == responses["exact_match"]["mean"] and answers.n == 2


def test_of_each_strict_pair_the_likelier_is_taken(exported, model, tokenizer):
    prompt = tokenizer.encode_prompt([SHORT])
    rows = [completion_row(prompt, tokenizer.encode_completion(text)) for text in SETS[2].items[0].completions]
    best, *worse = (-one.nats for one in likelihoods(model, tokenizer, rows))
    found = exported[1]["heldout_ranked"].metrics["acc"]
    assert found.n == 2 and found.mean == sum(best > other for other in worse) / 2


def test_an_exact_answer_counts_whatever_its_white_space(exported):
    paths, _ = exported
    functions: dict = {}
    exec((paths[0].parent / "scores.py").read_text(encoding="utf-8"), functions)
    assert functions["exact_match"]({"answer": "a  log"}, ["a log\n"]) == {"exact_match": 1.0}
    assert functions["exact_match"]({"answer": "a log"}, ["a mat"]) == {"exact_match": 0.0}


def test_a_long_document_is_cut_where_the_evaluation_stops_reading(tmp_path, tokenizer):
    text = "قطة صغيرة. " * 2000
    export(tmp_path, [Heldout("long", "documents", (Document(text),))], tokenizer, max_items=None, max_new_tokens=5)
    row = json.loads((tmp_path / "heldout_long.jsonl").read_text(encoding="utf-8"))
    assert text.startswith(row["text"]) and 2040 < len(tokenizer.encode(row["text"])) <= 2048
