"""The race is fair and its figures are what they are called; the peers do the same work as the model here."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch

from lit_llm.arguments import parse
from lit_llm.benchmark import command
from lit_llm.benchmark.command import Benchmark, conditions, table
from lit_llm.benchmark.contestants import Shape, find, here, random_batch
from lit_llm.benchmark.race import Result, race
from lit_llm.benchmark.step import TrainingStep
from lit_llm.errors import UserError

SMALL = Shape(hidden_size=32, layers=2, heads=2, vocab_size=65, length=16, batch=2, qk_norm=False)


class Recorded:
    """Stands in for a step: it only writes down when it ran."""

    tokens = 10

    def __init__(self, name, log, speed):
        self.name, self.log, self.speed = name, log, speed

    def timed(self, steps):
        self.log.append((self.name, steps))
        return self.speed


def test_rounds_are_interleaved_take_turns_at_being_first_and_last_equally_long():
    log = []
    steps = {name: Recorded(name, log, speed) for name, speed in (("a", 100.0), ("b", 400.0))}
    results = race(steps, rounds=3, seconds=0.5)
    assert log[:4] == [("a", 2), ("a", 1), ("b", 2), ("b", 1)]  # warming up
    assert log[4:] == [("a", 5), ("b", 20), ("b", 20), ("a", 5), ("a", 5), ("b", 20)]
    assert results == [Result("a", (100.0,) * 3), Result("b", (400.0,) * 3)]


def test_ratios_are_of_the_same_rounds():
    fast, slow = Result("here x", (10.0, 40.0, 30.0)), Result("peer x", (5.0, 10.0, 10.0))
    assert fast.against(slow) == (3.0, 2.0, 4.0)
    lines = list(table([fast, slow]))
    assert lines[0] == "here x: 3.00 times peer x, the fastest eager peer (2.00 to 4.00)"
    assert [line.split()[-1] for line in lines[2:]] == ["1.00", "0.33"]


def test_eager_is_compared_with_eager_and_compiled_with_compiled():
    names = ("here b", "peer b", "here b compiled", "peer b compiled", "slow b compiled")
    results = [Result(name, (float(i + 1),)) for i, name in enumerate(names)]
    lines = list(table(results))
    assert lines[0].startswith("here b: 0.50 times peer b, the fastest eager")
    assert lines[1].startswith("here b compiled: 0.60 times slow b compiled, the fastest compiled")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_step_learns(precision):
    torch.manual_seed(0)
    step = TrainingStep(here(SMALL), random_batch(SMALL, torch.device("cpu")), precision, compiled=False)
    for group in step.optimizer.param_groups:
        group["lr"] = 1e-2
    losses = [float(step()) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
    assert step.tokens == 32 and step.timed(2) > 0


@pytest.mark.parametrize("name", ["transformers", "litgpt"])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_peer_does_the_same_work(name, qk_norm):
    """Same parameters but for litgpt's untied head, and a loss near that of guessing."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    shape = replace(SMALL, qk_norm=qk_norm)
    ours, peer = (make(shape) for _, make in find(name, None))
    extra = 65 * 32 if name == "litgpt" else 0
    assert sum(p.numel() for p in peer.parameters()) == sum(p.numel() for p in ours.parameters()) + extra
    batch = random_batch(shape, torch.device("cpu"))
    assert float(peer(*batch).detach()) == pytest.approx(float(ours(*batch).detach()), abs=0.8)


def test_who_takes_part(tmp_path):
    assert [name for name, _ in find("", None)] == ["here"]
    with pytest.raises(UserError, match="'nemo' is none; known are transformers, litgpt"):
        list(find("nemo", None))
    with pytest.raises(UserError, match=r"no model\.py in it"):
        list(find("", tmp_path))
    (tmp_path / "model.py").write_text(
        "import torch\nclass GPTConfig:\n    def __init__(self, **k): self.__dict__.update(k)\n"
        "class GPT(torch.nn.Embedding):\n    def __init__(self, c): super().__init__(c.vocab_size, c.vocab_size)\n"
        "    def forward(self, ids, labels):\n        logits = super().forward(ids)\n"
        "        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())\n"
    )
    found = dict(find("", tmp_path))
    assert float(found["nanogpt"](SMALL)(*random_batch(SMALL, torch.device("cpu"))).detach()) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hidden_size=100"], "must be a multiple of 2 x heads=6"),
        (["precision=fp8"], "precision=fp8"),
        (["rounds=0"], "rounds=0: must be above 0"),
        (["device=tpu"], "device=tpu"),
        (["clock=cpu"], "give threads=1 device=cpu"),
        (["bach=8"], "did you mean batch="),
    ],
)
def test_mistakes_are_one_line(words, said):
    with pytest.raises(UserError) as caught:
        parse(Benchmark, words)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_from_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "keep_freed_memory", lambda: True)  # it would last for all other tests
    words = "hidden_size=32 layers=1 heads=2 length=8 batch=1 rounds=2 seconds=0.001 compile=no peers= device=cpu"
    command.run(parse(Benchmark, [*words.split(), f"json={tmp_path / 'x.json'}"]))
    said = capsys.readouterr().out
    assert "0.0M parameters" in said and "threads, wall clock, load" in said and "allocator tuned for everybody" in said
    written = json.loads((tmp_path / "x.json").read_text())
    assert {name: len(rounds) for name, rounds in written["tokens_per_second"].items()} == {
        "here bf16-mixed": 2,
        "here bf16-true": 2,
    }


def test_conditions_tell_the_allocator_apart():
    assert "allocator as it is" in "\n".join(conditions(Benchmark(), tuned=False))
