"""Invariant: what an evaluation is taken by is on the disk whole or not at all, and floors read what was trained."""

from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from lit_llm.config.schema import EvaluationConfig, TrainerConfig
from lit_llm.evaluation.heldout import evaluate
from lit_llm.evaluation.sets import read_all, write_heldout
from lit_llm.records import Document, Example, Heldout, Message
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.training.evaluate import Evaluator, keep_sets, trained_answers

SETS = [
    Heldout("general", "documents", (Document("The cat sat on the mat."),)),
    Heldout("task_pairs", "responses", (Example((Message("user", "The cat."), Message("assistant", "sat"))),)),
]


def parts(answers=()):
    data = SimpleNamespace(heldout=lambda: SETS, training_answers=lambda: list(answers))
    return SimpleNamespace(cfg=OmegaConf.create(), data=data)


def test_the_most_frequent_target_is_the_commonest_trained_answer(tmp_path, model, tokenizer):
    keep_sets(parts(["sat", "a mat", "log", "sat"]), RunFolder(tmp_path))
    known = trained_answers(tmp_path)
    assert known == {"sat": 2, "a mat": 1, "log": 1}
    floors = evaluate(model, tokenizer, SETS[1], max_new_tokens=2, training_answers=known).floors
    assert floors["most_frequent_target"]["exact_match"].mean == 1.0  # "sat", not "a mat", the first by the alphabet


def test_a_run_killed_while_it_kept_its_sets_keeps_them_again(tmp_path, monkeypatch):
    def killed(folder, heldout):
        if heldout.name == "task_pairs":
            raise KeyboardInterrupt
        return write_heldout(folder, heldout)

    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lit_llm.training.evaluate.write_heldout", killed)
        keep_sets(parts(["sat"]), folder)
    assert not folder.heldout.exists()
    keep_sets(parts(["sat"]), folder)
    assert [heldout.name for heldout in read_all(folder.heldout)] == ["general", "task_pairs"]
    assert trained_answers(tmp_path) == {"sat": 1} and not list(tmp_path.glob(".heldout*"))


@pytest.mark.parametrize(("kind", "given"), [("prompts", 1.0), ("responses", None)])
def test_answers_to_prompts_alone_are_sampled_at_the_temperature_of_the_configuration(monkeypatch, kind, given):
    seen = {}
    monkeypatch.setattr("lit_llm.training.evaluate.evaluate", lambda *_, **how: seen.update(how))
    evaluation = EvaluationConfig(temperature=1.0)
    cfg = OmegaConf.create({"evaluation": evaluation, "trainer": TrainerConfig(precision="32-true"), "stage": {}})
    Evaluator(cfg, None, torch.device("cpu")).evaluate(None, None, Heldout("some", kind, ()), "some")
    assert seen["temperature"] == given
