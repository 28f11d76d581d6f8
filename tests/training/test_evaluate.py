"""Invariant: what an evaluation is taken by is on the disk whole or not at all, and floors read what was trained."""

import gc
import json
import weakref
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.loaded import LoadedModel
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.config.command_line import compose
from lit_llm.config.schema import EvaluationConfig, TrainerConfig
from lit_llm.evaluation.heldout import evaluate
from lit_llm.evaluation.scores import Scores
from lit_llm.evaluation.sets import read_all, write_heldout
from lit_llm.records import Document, Example, Heldout, Message
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.text.bpe import train_bpe
from lit_llm.training.build import load
from lit_llm.training.evaluate import RunEvaluation, evaluator_of, keep_sets, trained_answers
from lit_llm.training.train import run
from tests.chain_data import write_data
from tests.folder_reads import count_reads

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
def test_answers_to_prompts_alone_are_sampled_at_the_temperature_of_the_configuration(
    monkeypatch, tmp_path, model, tokenizer, kind, given
):
    seen = {}
    scores = Scores("some", kind, {}, {})
    monkeypatch.setattr("lit_llm.evaluation.evaluator.evaluate", lambda *_, **how: (seen.update(how), scores)[1])
    stage = {"_target_": "lit_llm.stages.fine_tuning.FineTuning"}
    parts = {"evaluation": EvaluationConfig(temperature=1.0), "trainer": TrainerConfig(precision="32-true")}
    cfg = OmegaConf.create({**parts, "stage": stage})
    evaluator_of(cfg, tmp_path).evaluate(LoadedModel(model, tokenizer), Heldout("some", kind, ()), "some")
    assert seen["temperature"] == given


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Data, a parent, a reward model and a flag classifier of it."""
    place = tmp_path_factory.mktemp("folders")
    write_data(place / "data")
    rows = [{"prompt": f"What is {n}?", "completions": ["yes", "no", "a file"], "ranking": [1, 2, 2]} for n in range(9)]
    (place / "data/rankings").mkdir()
    for split, some in {"train": rows[4:], "validation": rows[:2], "test": rows[2:4]}.items():
        (place / f"data/rankings/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    torch.manual_seed(0)
    tokenizer = train_bpe(["What does it do? It will read the file."] * 4, vocab_size=290, show_progress=False)
    parent = LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=96))
    reward, flags = (ScoreModel.from_language_model(parent) for _ in range(2))
    flags.label = "flagged"
    for name, made in {"parent": parent, "reward": reward, "flags": flags}.items():
        save_model(place / name, made, tokenizer)
    return place


def composed(folders, stage, *more):
    data = {"continued_pretraining": "domain", "ppo": "prompts"}.get(stage, "rankings")
    words = [f"stage={stage}", f"init_from={folders}/parent", f"data.path={folders}/data/{data}", "trainer=cpu"]
    words += [f"data.cache_dir={folders}/cache", "data.micro_batch_size=2", "trainer.precision=32-true"]
    words += ["trainer.max_steps=1", "trainer.limit_val_batches=1", "callbacks=none", "logger=csv"]
    words += ["trainer.progress=false", "evaluation.before=true"]
    words += ["evaluation.max_items=2", "evaluation.max_new_tokens=3"]
    return compose("train", [*words, *more])


def ppo(folders):
    """Its reward is its gold too, and stands in a sum; what is flagged judges its answers to held-out prompts."""
    learned = f"{{_target_: lit_llm.rewards.learned.LearnedReward, folder: {folders}/reward}}"
    flagged = f"{{_target_: lit_llm.rewards.flags.FlagRate, folder: {folders}/flags}}"
    words = ["reward=weighted_sum", f"+stage.reward.parts.learned={{reward: {learned}}}", f"stage.gold={learned}"]
    words += [f"+evaluation.scorers.flagged={flagged}", "stage.max_new_tokens=3"]
    return [*words, "stage.ignore_reward_validation=true"]


@pytest.mark.parametrize(
    ("stage", "words", "again"),
    [
        (
            "continued_pretraining",
            ["data.max_length=32", "data.replay_path=null", "data.replay_ratio=0", "stage.new_tokens=[operator]"],
            0,
        ),
        ("reward_modeling", ["data.max_length=96"], 0),
        ("dpo", ["data.max_length=96"], 0),
        ("dpo", ["data.max_length=96", "stage.lora_rank=2"], 0),
        ("dpo", ["data.max_length=96", "stage.reference_cache=true"], 1),  # which saves the memory to hold it
        ("ppo", None, 0),
    ],
)
def test_a_run_reads_each_folder_once_before_and_after(folders, tmp_path, monkeypatch, stage, words, again):
    cfg = composed(folders, stage, *(ppo(folders) if words is None else words))
    reads = count_reads(monkeypatch)
    metrics = run(cfg, tmp_path / "run")
    assert metrics["before"].keys() == metrics["heldout"].keys() != set()
    read = ["parent"] if stage != "ppo" else ["flags", "parent", "reward"]
    expected = {f"{what} {folders / name}": 1 for name in read for what in ("read_tensors", "read_engine")}
    assert reads == expected | {f"read_tensors {folders / 'parent'}": 1 + again}


def test_the_parent_is_gone_when_it_was_measured_and_scorers_stay(folders, tmp_path):
    parts = load(composed(folders, "ppo", *ppo(folders)), tmp_path / "run")
    evaluation = RunEvaluation(parts, RunFolder(tmp_path / "run"))
    parent = weakref.ref(parts.start.model)
    assert evaluation.before()["prompts"]["score/flagged"]
    gc.collect()
    assert parent() is None and evaluation.before() == {}
    judges = evaluation.after(torch.device("cpu"))
    assert judges[0]["prompts"]["kl/answer"]["mean"] == 0.0, "nothing was learned"
