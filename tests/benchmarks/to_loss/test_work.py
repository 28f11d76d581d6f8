"""To nanoGPT's loss: nanoGPT's splits, an evaluation of everything, turns that change nothing, and arithmetic."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.command import command
from benchmarks.race import Result
from benchmarks.record import Record
from benchmarks.to_loss.ablation import Trial, ablation_table, variants
from benchmarks.to_loss.course import Course, Mark, _advance
from benchmarks.to_loss.text import draw, evaluate, read_characters
from benchmarks.to_loss.training import Recipe, Training, nanogpt_recipe
from benchmarks.to_loss.work import SHIPPED, Settings, _goals, _result, told_apart
from torch import nn

from lit_llm.errors import UserError

TINY = Recipe(20, rows=2, length=8, width=16, layers=1, heads=2, bf16=False)
NANOGPT = """
import torch
from torch import nn
from torch.nn import functional as F

class GPTConfig:
    def __init__(self, **values):
        self.__dict__.update(values)

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)
        print("number of parameters")

    def forward(self, idx, targets):
        logits = self.table(idx)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
"""


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("abcdefgh ijklm\n" * 100, encoding="utf-8")
    return file


def training(text, recipe=TINY, parts=10, validation=True):
    return Training(recipe, text, text.parent, 0, parts, validation)


def finished(subject, parts):
    for _ in range(parts + 1):
        subject()
    return subject


def test_splits_are_nanogpts(text):
    characters = read_characters(text, 8)
    everything = text.read_text()
    assert characters.vocab_size == len(set(everything)) == 15
    assert len(characters.training) == int(len(everything) * 0.9)
    letters = sorted(set(everything))
    spelt = "".join(letters[i] for i in [*characters.training.tolist(), *characters.validation.tolist()])
    assert spelt == everything


class ByPlace(nn.Module):
    """Its loss is the mean of the labels: each must come from the next place, once."""

    def forward(self, inputs, labels):
        assert torch.equal(inputs[:, 1:], labels[:, :-1]) and not self.training
        return labels.double().mean()


def test_everything_is_evaluated_once():
    ids = torch.arange(4 * 700 + 3)  # more rows than go into one forward, and a rest
    assert evaluate(ByPlace(), ids, 4) == pytest.approx(torch.arange(1, 2801).double().mean().item())


def test_windows_come_once_before_any_comes_again():
    ids, generator = torch.arange(103), torch.Generator().manual_seed(1)
    starts = draw(ids, 25, 10, False, generator)
    first, rest = starts[:9].tolist(), starts[9:18].tolist()
    assert sorted(first) == sorted(rest) and len({start // 10 for start in first}) == 9 and first != rest
    drawn = draw(ids, 2000, 10, True, generator)
    assert drawn.min() == 0 and drawn.max() == 92  # the last label is the last character


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_turns_change_nothing_and_the_first_call_does_not_train(text, optimizer):
    recipe = replace(TINY, optimizer=optimizer)
    whole, cut = training(text, recipe, parts=1), training(text, recipe, parts=7)
    before = [p.clone() for p in cut.parameters]
    cut()
    assert all(map(torch.equal, before, cut.parameters)) and cut.numbers()["steps"] == 0
    for _ in range(7):
        cut()
    finished(whole, 1)
    assert all(map(torch.equal, whole.parameters, cut.parameters))
    assert whole.numbers()["steps"] == cut.numbers()["steps"] == 20
    assert whole.numbers()["loss"] == cut.numbers()["loss"] < 2.6 < math.log(15)


def test_only_the_last_parts_are_judged_and_values_are_chosen_on_training_text(text):
    subject = training(text)
    heard = []
    subject()
    for _ in range(10):
        subject()
        heard.append("loss" in subject.numbers())
    assert heard == [False] * 7 + [True] * 3
    held = training(text, validation=False)
    assert torch.equal(torch.cat([held.training, held.heldout]), subject.training)


@pytest.mark.slow  # it trains
def test_from_end_to_end(text, capsys):
    (text.parent / "model.py").write_text(NANOGPT)
    file = text.parent / "x.json"
    text.write_text(text.read_text() * 2)
    command(
        f"to_loss text={text} nanogpt={text.parent} peer_steps=10 steps=20 compile=false threads=1 json={file}".split()
    )
    said = capsys.readouterr().out
    assert "times fewer steps" in said and "number of parameters" not in said
    peer, here = json.loads(file.read_text())["results"]
    assert peer["name"] == "nanogpt 32-true" and peer["numbers"]["steps"] == 10 and here["numbers"]["arrived"] == 1
    assert here["numbers"]["steps"] == 16  # the first place where the loss is read
    assert here["rounds"][0] == pytest.approx(1 / here["numbers"]["seconds"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"nanogpt": Path("nowhere")}, r"^nanogpt=nowhere: no model.py"),
        ({"steps": 3}, r"^steps=3: must be at least 10"),
        ({"text": Path("absent.txt")}, r"^text=absent.txt: cannot be read"),
    ],
)
def test_mistakes_are_named(text, words, said):
    (text.parent / "model.py").write_text(NANOGPT)
    values = {"text": text, "nanogpt": text.parent} | {
        k: Path(v) if isinstance(v, str) else v for k, v in words.items()
    }
    with pytest.raises(UserError, match=said):
        Settings(**values)


def test_fewer_steps_and_cheaper_steps_are_told_apart():
    numbers = {"arrived": 1.0, "final_loss": 1.0}
    here = Result("here", (0.1,), numbers=numbers | {"steps": 100, "step_ms": 100, "cpu_seconds": 10})
    peer = Result("nanogpt", (0.01,), numbers=numbers | {"steps": 500, "step_ms": 200, "cpu_seconds": 200})
    (line,) = [line for line in told_apart([here, peer]) if line]
    assert "5.00 times fewer steps, each in 0.50 of the time; 20.00 times less processor time" in line


def course(recipe, seconds, losses):
    marks = [Mark(10 * (i + 1), seconds * (i + 1), 0.0, loss) for i, loss in enumerate(losses)]
    return Course(recipe, marks=marks)


def test_a_part_taken_out_is_compared_with_the_best_of_its_own_turns():
    best = course(TINY, 1.0, [2.0, 1.8])
    slow = [Trial(1.9, best, course(TINY, 2.0, [2.5, loss]), course(TINY, 2.0, [2.2, 2.1, 1.9])) for loss in (2.3, 2.5)]
    never = [replace(trial, longer=trial.same) for trial in slow]
    lost = [replace(trial, best=course(TINY, 1.0, [2.5])) for trial in slow]
    _, first, second, third = ablation_table({"slow": slow, "never": never, "lost": lost})
    assert first == ["slow", "2.4000 ± 0.1414", "2.00", "30", "3.00 ± 0.00"]
    assert second[-2:] == ["0 of 2 arrived", "not with 20"]
    assert third[-2:] == ["30", "best did not arrive"]


def test_the_sooner_of_a_variants_two_trainings_counts():
    best = course(TINY, 1.0, [1.9])
    trial = Trial(1.9, best, course(TINY, 1.0, [2.0, 1.9]), course(TINY, 1.0, [2.1, 2.0, 1.9]))
    assert trial.arrived.seconds == replace(trial, same=trial.longer, longer=trial.same).arrived.seconds == 2.0


def test_who_did_not_arrive_with_every_seed_has_no_ratio_and_no_means():
    went = [course(TINY, 1.0, [2.0, loss]) for loss in (1.8, 1.95)]
    peer = [course(nanogpt_recipe(20, False, False, False), 1.0, [2.0, 1.9])] * 2
    results = [_result("here", went, [1.9, 1.9]), _result(SHIPPED, peer, [1.9, 1.9])]
    assert results[0].rounds == (0.5, 0.0) and "seconds" not in results[0].numbers
    assert next(told_apart(results)).startswith("here: 1 of 2 arrived, mean end 1.8750")
    assert not list(Record("to_loss", "trainings", [], results, _goals(results)).comparisons())
    results[0] = _result("here", [went[0]] * 2, [1.9, 1.9])
    (comparison,) = Record("to_loss", "trainings", [], results, _goals(results)).comparisons()
    assert comparison.ratio == 1.0 and comparison.few == "2 seeds only, 3 are wanted"


def test_the_first_call_is_in_the_marks():
    class Known:
        def timed(self, calls):
            return 1.0, 2.0 * calls

        def described(self):
            return 0.1, {"steps": 1.0, "cpu_seconds": 0.0}

    subject = Course(TINY, compile_seconds=30.0)
    _advance(subject, Known())
    _advance(subject, Known())
    assert [mark.seconds for mark in subject.marks] == [32.0, 34.0]


def test_nanogpts_adamw_is_fused_where_that_is_asked_for(text):
    (text.parent / "model.py").write_text(NANOGPT)
    recipes = [replace(nanogpt_recipe(20, False, False, fused), width=16, length=8) for fused in (False, True)]
    plain, fused = (finished(training(text, recipe), 10) for recipe in recipes)
    assert fused.optimizer.param_groups[0]["fused"] and not plain.optimizer.param_groups[0]["fused"]
    assert fused.numbers()["loss"] == pytest.approx(plain.numbers()["loss"], abs=1e-4)
    with pytest.raises(RuntimeError, match="all 20 steps are done"):
        fused()


def test_every_variant_takes_out_one_part():
    best = Recipe(20)
    for variant in variants(best):
        changed = [key for key, value in vars(variant.recipe).items() if value != getattr(best, key)]
        assert len(changed) == 1 or changed in (["optimizer", "lr"], ["model", "heads"])
