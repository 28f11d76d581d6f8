"""Every training command of the READMEs, run as it stands there on tiny models and files, for one step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.chain_data import write_data
from tests.small_project import project, rank_one
from tests.test_readmes import ROOT, commands

pytestmark = pytest.mark.slow
TINY = ["backbone.depth=2", "backbone.hidden_size=64", "tokenizer.vocab_size=400", "logger=none"]
SHORT = ["trainer.fast_dev_run=1", "data.on_error=skip", "trainer.progress=false"]
PLACES = {"$MODEL": "model", "$REWARD": "reward", "$P/": "chain/"}
FORMAT = """
from lit_llm.records import Example, Message

def hotline(row):
    if row["status"] != "closed":
        return None
    return Example((Message("user", row["caller"]), Message("assistant", row["reply"])))
"""


def trainings():
    return [one for one in commands() if one.values[1][0] == "scripts/train.py" and "my_stage" not in str(one.id)]


def asked(number):
    return f"What is {number} and {number}?"


def said(role, text):
    return {"role": role, "content": text}


def rows(count, make):
    return "".join(json.dumps(make(n)) + "\n" for n in range(count))


def run(folder, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, place in PLACES.items():
        words = tuple(word.replace(name, place) for word in words)
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the commands name: texts, rows of every kind, a project, a model, a reward model, a pipeline's folder."""
    place = tmp_path_factory.mktemp("readme")
    write_data(place / "data")
    shutil.copytree(place / "data/raw_text", place / "my_texts")
    shutil.copytree(place / "data/domain", place / "my_domain")
    files = {
        "pairs": lambda n: {"source": f"text {n} of many words", "target": f"words {n}"},
        "chats": lambda n: {"messages": [said("user", asked(n)), said("assistant", str(n))]},
        "comparisons": lambda n: {"prompt": asked(n), "chosen": f"It is {2 * n}.", "rejected": f"No {n}."},
        "labels": lambda n: {"prompt": asked(n), "completion": f"It is {2 * n}.", "label": n % 2 == 0},
        "gsm8k": lambda n: {"question": asked(n), "answer": f"So it is\n#### {2 * n}"},
        "prompts": lambda n: {"prompt": asked(n)},
        "calls": lambda n: {"status": "closed", "caller": asked(n), "reply": f"{2 * n}"},
        "flags": lambda n: {
            "prompt": asked(n), "completions": [f"a {n}", f"b {n}"], "ranking": [1, 2],
            "flags": [{"completion": n % 2, "kind": "unsafe", "severity": 2}],
        },
    }  # fmt: skip
    for name, make in files.items():
        (place / f"{name}.jsonl").write_text(rows(60, make), encoding="utf-8")
    for name, other in (("my_pairs", "pairs"), ("my_chats", "chats"), ("problems", "gsm8k")):
        shutil.copy(place / f"{other}.jsonl", place / f"{name}.jsonl")
    for name in ("rankings", "chain/rankings/collected"):
        (place / name).mkdir(parents=True)
        shutil.copy(place / "flags.jsonl", place / name / "rows.jsonl")
    (place / "my_formats.py").write_text(FORMAT, encoding="utf-8")
    project(place / "team.db")
    for flagged in (True, False):
        rank_one(place / "team.db", flagged)
    train = [str(ROOT / "scripts/train.py"), "evaluation.enabled=false", "trainer.max_steps=2", "logger=none"]
    run(place, *train, *TINY, "data.path=my_texts", "data.max_length=64", "hydra.run.dir=one")
    shutil.copytree(place / "one/model", place / "model")
    shutil.copytree(place / "one/model", place / "FOLDER")
    reward = ["stage=reward_modeling", "init_from=model", "data.path=comparisons.jsonl", "stage.reward_validation=null"]
    run(place, *train, *reward, "hydra.run.dir=two")
    shutil.copytree(place / "two/model", place / "reward")
    for name in ("pretraining", "continued_pretraining", "fine_tuning", "instruction_tuning", "reward_modeling"):
        other = place / ("reward" if name == "reward_modeling" else "model")
        shutil.copytree(other, place / f"chain/{name}/model")
    return place


@pytest.mark.parametrize(("page", "words"), trainings())
def test_a_training_of_a_readme_runs(folder, page, words, request):  # noqa: ARG001
    script, *rest = words
    own = [*SHORT, f"hydra.run.dir=runs/{abs(hash(request.node.name))}"]
    if not any(word.startswith("init_from=") for word in rest):
        own += ["data.max_length=64"]
    if any("ppo" in word for word in rest):
        own += ["stage.ignore_reward_validation=true"]
    if {"-m", "--multirun"} & set(rest) or any(word.startswith("hparams_search=") for word in rest):
        own = [*SHORT, *TINY, "data.path=my_texts", "data.max_length=64", f"hydra.sweep.dir=runs/{len(rest)}"]
    run(folder, str(ROOT / script), *rest, *own)
