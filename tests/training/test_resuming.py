"""A run goes on in its own folder with its own configuration, and with no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lit_llm.config import schema
from lit_llm.config.command_line import check, compose
from lit_llm.config.hydra_words import hydra_words
from lit_llm.errors import UserError
from lit_llm.lineage import lineage
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.training import finalize
from lit_llm.training.train import prepare, run
from tests.forked_command import forked

SMALL = [
    "data.micro_batch_size=2", "trainer.max_steps=2", "trainer.checkpoint_every_n_steps=1", "trainer=cpu",
    "trainer.limit_val_batches=1", "trainer.precision=32-true", "callbacks=none",
    "evaluation.max_items=4", "evaluation.generate=false", "trainer.progress=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def scratch(data):
    """The overrides of a small run from scratch."""
    words = ["backbone.depth=2", "backbone.hidden_size=32", "backbone.max_positions=64", "tokenizer.vocab_size=300"]
    return [*SMALL, *words, "data.max_length=32", f"data.path={data}/raw_text", f"data.cache_dir={data}/cache"]


@pytest.fixture(scope="module")
def parent(scratch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    run(compose("train", scratch), folder)
    return folder / "model"


@pytest.fixture(scope="module")
def tuned(data, parent, tmp_path_factory):
    """A finished fine-tuning run by the command line, and its overrides."""
    folder = tmp_path_factory.mktemp("outputs") / "fine_tuning/run"
    words = ["stage=fine_tuning", f"init_from={parent}", f"data.path={data}/task_pairs", "data.max_length=64"]
    words = [*SMALL, *words, f"data.cache_dir={data}/cache"]
    train([*words, f"hydra.run.dir={folder}"])
    return folder, words


def train(words: list[str], folder: Path | None = None) -> str:
    done = forked("train", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def steps(folder: Path) -> int:
    return int(json.loads((folder / "metrics.json").read_text())["steps"])


# Runs that start from a model


def test_a_run_from_a_model_is_resumed_by_its_folder_and_the_scores_are_those_of_the_new_weights(tuned):
    folder, _ = tuned
    old = (folder / "scores/after/task_pairs.json").read_text()
    before = (folder / "scores/before/task_pairs.json").stat().st_mtime_ns
    said = train([f"resume={folder}", "trainer.max_steps=4"])
    assert "resumed from" in said and steps(folder) == 4
    assert schema.load(folder / "config.yaml").init_from is not None
    assert (folder / "scores/after/task_pairs.json").read_text() != old
    assert (folder / "scores/before/task_pairs.json").stat().st_mtime_ns == before  # the same model, not asked again


def test_a_run_from_a_model_is_found_by_its_configuration(tuned, tmp_path):
    _, words = tuned
    folder = tmp_path / "outputs/fine_tuning/run"
    run(compose("train", words), folder)
    RunFolder(folder).mark("running", RunFolder(folder).state["identity"])
    said = train([*words, "resume=auto"], tmp_path)
    assert "going on with outputs/fine_tuning/run" in said and "resumed from" in said


def test_a_resumed_run_keeps_its_parent(tuned, tmp_path):
    folder, words = tuned
    with pytest.raises(UserError, match=r"^init_from=.*: the run in .* has init_from=.*leave it out") as caught:
        check("train", hydra_words("train", [f"resume={folder}", f"init_from={tmp_path}"]))
    assert len(str(caught.value).splitlines()) == 1
    other = [word for word in words if not word.startswith("init_from")]
    with pytest.raises(UserError, match="a resumed run keeps"):
        prepare(compose("train", [*other, f"init_from={tmp_path}", "resume=auto"]), RunFolder(folder))
    check("train", hydra_words("train", [f"resume={folder}"]))


# A folder that holds another run


def test_a_folder_of_another_unfinished_run_is_refused(scratch, tmp_path):
    run(compose("train", [*scratch, "debug=fast_dev_run"]), tmp_path)
    other = [word for word in scratch if "vocab_size" not in word]
    for more in ([], ["debug=fast_dev_run"]):
        with pytest.raises(UserError, match="holds a run of another configuration"):
            run(compose("train", [*other, *more, "tokenizer.vocab_size=280"]), tmp_path)
    with pytest.raises(UserError, match=r"^tokenizer.vocab_size=280: .* has tokenizer.vocab_size=300"):
        run(compose("train", [*other, "tokenizer.vocab_size=280", "resume=auto"]), tmp_path)
    assert schema.load(tmp_path / "config.yaml").tokenizer.vocab_size == 300
    run(compose("train", [*scratch, "debug=fast_dev_run"]), tmp_path)  # the same one may begin again


def test_a_tokenizer_is_whole_or_absent(scratch, tmp_path, monkeypatch):
    from lit_llm.text.tokenizer import Tokenizer
    from lit_llm.training import build as parts

    def killed(_, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text("{")
        raise KeyboardInterrupt

    cfg = compose("train", scratch)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tokenizer, "save", killed)
        parts.load_run_tokenizer(cfg, tmp_path / "tokenizer")
    assert parts.load_run_tokenizer(cfg, tmp_path / "tokenizer").vocab_size == 300


# Secrets of the environment


def files_with(folder: Path, secret: str) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_no_file_of_a_run_holds_a_value_from_the_environment(parent, data, tmp_path, monkeypatch):
    """The model's and the data's places are told by the environment."""
    from lit_llm.lineage.verification import verify

    place = tmp_path / "hunter2secret"
    place.mkdir()
    (place / "model").symlink_to(parent)
    shutil.copytree(data / "task_pairs", place / "pairs")
    monkeypatch.setenv("SECRETDIR", str(place))
    words = [*SMALL, "stage=fine_tuning", "init_from=${oc.env:SECRETDIR}/model"]
    words += ["data.path=${oc.env:SECRETDIR}/pairs"]
    words += ["data.max_length=64", f"data.cache_dir={tmp_path}/cache", f"hydra.run.dir={tmp_path}/run"]
    train(words)
    assert "from ${oc.env:SECRETDIR}/model" in next((tmp_path / "run").glob("*.log")).read_text()
    assert files_with(tmp_path / "run", "hunter2secret") == []
    kept = lineage.read(tmp_path / "run/model")
    assert {item["path"] for item in kept["data"]["files"]} >= {"${oc.env:SECRETDIR}/pairs/train.jsonl"}
    assert [known["stage"] for known in kept["parents"]] == ["pretraining"]
    assert verify(tmp_path / "run/model")[1] == []
    (place / "pairs/train.jsonl").write_text("{}")
    assert "pairs/train.jsonl differs" in verify(tmp_path / "run/model")[1][0]


def test_no_file_of_a_failed_sweep_holds_a_value_from_the_environment(scratch, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRETDIR", "/nowhere/hunter2secret")
    words = [word for word in scratch if not word.startswith("data.path")]
    train([*words, "-m", "data.path=${oc.env:SECRETDIR}/pairs", f"hydra.sweep.dir={tmp_path}"])
    status = json.loads((tmp_path / "0/job.json").read_text())["status"]
    assert status.startswith("failed: data.path=${oc.env:SECRETDIR}/pairs: no such file or folder")
    assert files_with(tmp_path, "hunter2secret") == []


def test_a_variable_that_is_not_set_is_one_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where no folder is called m
    for name in ("NOT_THERE", "NOT_THERE_EITHER"):
        monkeypatch.delenv(name, raising=False)
    words = ["data.path=${oc.env:NOT_THERE}/x", "init_from='${oc.env:NOT_THERE_EITHER,m}'"]
    with pytest.raises(UserError) as caught:
        check("train", hydra_words("train", words))
    line = "data.path=${oc.env:NOT_THERE}/x: the environment variable NOT_THERE is not set; export NOT_THERE=VALUE"
    assert str(caught.value) == line


def test_an_objective_that_is_not_measured_is_named_with_those_that_are():
    metrics = {"val_loss": 2.0, "heldout": {"general": {"bits_per_byte": {"mean": 1.5}}}}
    assert finalize.objective(metrics, "-general/bits_per_byte") == -1.5 and finalize.objective(metrics, None) == 2.0
    with pytest.raises(UserError, match="objective=general/bpb: not measured; this run measured general/bits_per_byte"):
        finalize.objective(metrics, "general/bpb")
