"""A run: what it leaves, what it refuses before the first step, going on after SIGKILL, sweeps, several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from lit_llm.backbone.huggingface import load_language_model, save_model
from lit_llm.config import schema
from lit_llm.config.command_line import check, compose
from lit_llm.config.folder_words import going_on
from lit_llm.config.hydra_words import hydra_words
from lit_llm.errors import UserError
from lit_llm.runtime.run_folder import RunFolder, unfinished
from lit_llm.text.tokenizer import load_tokenizer
from lit_llm.training import trainer
from lit_llm.training.evaluate_command import Evaluate, evaluate_again
from lit_llm.training.launch import launch
from lit_llm.training.sweep import Leaderboard, objective, only_seeds_differ, table
from lit_llm.training.train import quiet, run
from tests.forked_command import forked

ROOT = Path(__file__).parents[2]
SMALL = [
    "backbone.depth=2", "backbone.hidden_size=32", "backbone.max_positions=64", "tokenizer.vocab_size=300",
    "data.max_length=32", "data.micro_batch_size=2", "trainer.max_steps=6", "trainer.checkpoint_every_n_steps=2",
    "trainer.limit_val_batches=1", "trainer.accelerator=cpu", "trainer.precision=32-true", "callbacks=none",
    "evaluation.max_items=4", "evaluation.max_new_tokens=4", "trainer.log_every_n_steps=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def words(data):
    return [*SMALL, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache"]


@pytest.fixture(scope="module")
def done(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretraining"
    metrics = run(compose("train", [*words, "trainer.val_check_interval=3"]), folder)
    return folder, metrics


def command(words: list[str], script: str = "train.py") -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / script), *words]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model/model.safetensors")


def hyperparameters(folder: Path) -> dict[str, object]:
    """What TensorBoard's HPARAMS page shows of the run whose event files lie in ``folder`` itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder))
    events.Reload()
    told = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    found = HParamsPluginData.FromString(told).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# What it leaves


def test_a_run_leaves_its_folder(done):
    folder, metrics = done
    kept = json.loads((folder / "metrics.json").read_text())
    assert kept["tokens"] == 6 * 2 * 32, "whatever callbacks there are"
    assert kept["steps"] == 6 and kept["val_loss"] == metrics["val_loss"] == metrics["objective"]
    assert {"bits_per_byte", "perplexity"} <= kept["heldout"]["general"].keys()
    assert RunFolder(folder).state["status"] == "finished"
    assert sorted(path.name for path in (folder / "checkpoints").glob("*.ckpt")) == [
        "step-000000004.ckpt", "step-000000006.ckpt",
    ]  # fmt: skip
    assert schema.load(folder / "config.yaml").optimizer.lr == compose("train", []).optimizer.lr


@pytest.mark.gpu
def test_a_run_on_a_gpu_comes_to_the_loss_of_one_on_the_processor(done, words, tmp_path):
    words = [*words, "trainer.val_check_interval=3", "trainer.accelerator=gpu"]
    metrics = run(compose("train", words), tmp_path / "run")
    assert metrics["hardware"]["accelerator"] == "cuda"
    assert metrics["val_loss"] == pytest.approx(done[1]["val_loss"], rel=0.01)


def test_a_folder_that_holds_a_run_is_not_written_over(done, words):
    with pytest.raises(UserError, match="holds a run already; resume="):
        run(compose("train", words), done[0])


def test_the_next_stage_starts_from_the_model_and_takes_the_examination_before(done, data, tmp_path):
    own = [word for word in SMALL if word.startswith(("trainer", "evaluation", "data.micro", "callbacks"))]
    words = [*own, "stage=instruction_tuning", f"init_from={done[0]}/model", f"data.path={data}/instructions"]
    words += [f"data.cache_dir={data}/cache", "data.max_length=64", "trainer.val_check_interval=null"]
    cfg = compose("train", [*words, "optimizer.lr=1e-2"])
    metrics = run(cfg, tmp_path / "run")
    assert metrics["before"]["instructions"]["nll"]["n"] == metrics["heldout"]["instructions"]["nll"]["n"] == 4
    assert set(metrics["floors"]["instructions"]) == {"copy_first_sentence", "most_frequent_target"}
    assert "verbatim" in metrics["heldout"]["instructions"]


@pytest.mark.parametrize(("more", "kept"), [([], "bfloat16"), (["trainer.save_dtype=float32"], "float32")])
def test_a_parent_in_bfloat16_gives_a_folder_of_its_type_and_the_scores_are_the_folder_s(
    done, data, tmp_path, more, kept
):
    """Trained in float32, by adapters or all of it; and the card says that it came from elsewhere."""
    parent = tmp_path / "elsewhere"
    tokenizer = load_tokenizer(done[0] / "model")
    save_model(parent, load_language_model(done[0] / "model"), tokenizer, dtype=torch.bfloat16)
    own = [word for word in SMALL if word.startswith(("trainer", "evaluation", "data.micro", "callbacks"))]
    words = [*own, "stage=instruction_tuning", f"init_from={parent}", f"data.path={data}/instructions", *more]
    words += [f"data.cache_dir={data}/cache", "data.max_length=64", "trainer.val_check_interval=null"]
    rank = 0 if more else 2
    run(compose("train", [*words, f"stage.lora_rank={rank}", "optimizer.lr=1e-2"]), tmp_path / "run")
    folder = tmp_path / "run" / "model"
    assert {str(tensor.dtype) for tensor in load_file(folder / "model.safetensors").values()} == {f"torch.{kept}"}
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["dtype"], settings["torch_dtype"]) == (kept, kept)
    assert 'base_model: "elsewhere"\nlicense: "unknown"' in (folder / "README.md").read_text()
    assert (tmp_path / "run" / "adapter").is_dir() == bool(rank)
    again = evaluate_again(Evaluate(tmp_path / "run"))
    before = json.loads((tmp_path / "run" / "metrics.json").read_text())["heldout"]
    for one in again:
        for name, value in one.as_metrics().items():
            assert value["mean"] == pytest.approx(before[one.name][name]["mean"], rel=1e-6), name


# Refused before the first step


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["backbone.vocab_size=100"], "the embedding has 100 rows, the tokenizer 300 tokens"),
        (["data.max_length=128"], "data.max_length=128: the model's context is 64"),
        (["trainer.global_batch_size=5"], "must be a multiple of data.micro_batch_size=2 x 1 devices"),
        (["trainer.accelerator=gpu"], "there is no GPU"),
        (["data=prompts", "tokenizer=bpe"], "data=Prompts gives PromptBatch, stage=Pretraining takes TokenBatch"),
        (["optimizer.lr=-1"], "optimizer.lr"),
        (["data.path=/nowhere"], "/nowhere: no such file or folder"),
    ],
)
def test_parts_that_do_not_fit_are_refused(words, tmp_path, more, message):
    if message.startswith("there is no GPU") and torch.cuda.is_available():
        pytest.skip("there is one")
    kept = [w for w in words if not (more[0].startswith("data=") and "max_length" in w)]
    with pytest.raises(UserError, match=message):
        run(compose("train", [*kept, *more]), tmp_path)
    assert not (tmp_path / "checkpoints").exists() or not list((tmp_path / "checkpoints").glob("*.ckpt"))


# The Trainer's numbers


def numbers(**given) -> OmegaConf:
    data = {"micro_batch_size": 4, "max_length": 64}
    cfg = OmegaConf.create({"trainer": OmegaConf.structured(schema.TrainerConfig), "data": data})
    cfg.trainer.update(given)
    return cfg


def test_rows_a_step_become_accumulation():
    assert trainer.accumulation(numbers(global_batch_size=32)) == 8
    assert trainer.accumulation(numbers(global_batch_size=32, devices=2, num_nodes=2)) == 2
    assert trainer.accumulation(numbers()) == 1


def test_tokens_become_steps_and_the_lesser_limit_counts():
    assert trainer.optimizer_steps(numbers(max_tokens=1000), accumulate=2) == 2
    assert trainer.optimizer_steps(numbers(max_tokens=100_000, max_steps=7), accumulate=2) == 7
    assert trainer.optimizer_steps(numbers(max_epochs=1), accumulate=1) == -1
    assert trainer.optimizer_steps(numbers(max_tokens=10_000_000), accumulate=1) > trainer.DEFAULT_STEPS
    assert trainer.optimizer_steps(numbers(), accumulate=1) == trainer.DEFAULT_STEPS
    assert trainer.optimizer_steps(numbers(fast_dev_run=2), accumulate=1) == -1


@pytest.mark.parametrize(("key", "value"), [("max_tokens", 9), ("global_batch_size", 8), ("gradient_clip_val", 0.5)])
def test_what_a_stage_with_its_own_updates_would_not_read_is_refused(key, value):
    trainer.refuse_unread(numbers().trainer)
    with pytest.raises(UserError, match=rf"trainer\.{key}={value}: .*give"):
        trainer.refuse_unread(numbers(**{key: value}).trainer)


def test_a_processor_with_bf16_uses_it(monkeypatch):
    monkeypatch.setattr("lit_llm.runtime.processor.has_bf16", lambda: True)
    assert trainer.precision("auto", "cpu") == "bf16-mixed"
    monkeypatch.setattr("lit_llm.runtime.processor.has_bf16", lambda: False)
    assert trainer.precision("auto", "cpu") == "32-true"
    assert trainer.precision("16-mixed") == "16-mixed"


@pytest.mark.parametrize(
    ("given", "lightning", "interval"),
    [(1, 1, 2), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (3, 3, 6), (0, 0, None)],
)
def test_whole_numbers_count_batches_and_decimals_are_shares(given, lightning, interval):
    cfg = numbers(overfit_batches=given, val_check_interval=given).trainer
    found = trainer._batches(cfg.overfit_batches)
    assert found == lightning and type(found) is type(lightning)
    every = trainer._validation(cfg, accumulate=2).get("val_check_interval")
    assert every == interval and type(every) is type(interval)


# Going on


def test_after_sigkill_the_run_goes_on_to_bitwise_the_same_weights(words, tmp_path):
    """With dropout and accumulation; the killed run is found by its configuration (resume=auto)."""
    words = [*words, "backbone.dropout=0.1", "trainer.global_batch_size=4", "trainer.max_steps=14"]
    words += ["evaluation.enabled=false", "trainer.limit_val_batches=0"]
    run(compose("train", words), tmp_path / "whole")
    killed = tmp_path / "killed"
    slow = [*words, "resume=auto", f"hydra.run.dir={killed}", "callbacks.checkpoints.every_n_steps=1"]
    process = subprocess.Popen(command(slow), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: any(killed.glob("checkpoints/step-*.ckpt.json")), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "model").exists() and RunFolder(killed).state["status"] == "running"
    assert unfinished(tmp_path, RunFolder(killed).state["identity"]) == killed
    run(compose("train", [*words, "resume=auto", "callbacks.checkpoints.every_n_steps=1"]), killed)
    assert equal(weights(killed), weights(tmp_path / "whole"))
    assert json.loads((killed / "metrics.json").read_text())["tokens"] == 14 * 4 * 32


def test_resume_auto_finds_the_unfinished_run_of_this_very_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["stage=pretraining", "trainer=cpu", "seed=3", "resume=auto"]
    for name, status, seed in (("a", "running", 3), ("b", "finished", 3), ("c", "running", 4)):
        folder = tmp_path / "outputs/pretraining" / name
        folder.mkdir(parents=True)
        RunFolder(folder).mark(status, schema.identity(compose("train", [*words[:2], f"seed={seed}"])))
    schema.register()
    assert going_on("train", words)[-1] == "hydra.run.dir=outputs/pretraining/a"
    assert going_on("train", [*words[:2], "resume=auto"]) == [*words[:2], "resume=auto"]


def wait_for(condition, process, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.01)


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_143(words, tmp_path):
    folder = tmp_path / "run"
    more = ["trainer.max_steps=100000", "trainer.checkpoint_every_n_steps=1", "evaluation.enabled=false"]
    process = subprocess.Popen(command([*words, *more, f"hydra.run.dir={folder}"]), stderr=subprocess.PIPE)
    wait_for(lambda: any(folder.glob("checkpoints/step-*.ckpt.json")), process)
    process.terminate()
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 143 and b"Traceback" not in errors
    assert list(folder.glob("checkpoints/step-*.ckpt")) and not (folder / "model").exists()


def test_the_advice_to_add_up_what_is_added_up_already_is_not_shown(monkeypatch, recwarn):
    """Lightning's own words: of a stage's numbers in validation they say nothing true, of others they may."""
    from lightning.pytorch.trainer.connectors.logger_connector import result

    monkeypatch.setattr(result, "_distributed_is_initialized", lambda: True)
    for name, shown in (("val/loss", 0), ("val/set0/perplexity", 0), ("mine", 1)):
        with warnings.catch_warnings():
            quiet()
            told = result._Metadata("validation_step", name, on_step=False, on_epoch=True)
            told.sync = result._Sync()
            found = result._ResultMetric(told, True)
            found.value, found.cumulated_batch_size = torch.tensor(1.0), torch.tensor(1)
            result.warning_cache.clear()
            recwarn.clear()
            result._ResultCollection._get_cache(found, on_step=False)
        assert len([one for one in recwarn if "sync_dist" in str(one.message)]) == shown


# Sweeps


def test_a_sweep_survives_a_failed_job_and_ends_with_a_leaderboard(words, tmp_path):
    more = ["-m", "optimizer.lr=1e-3,-1,3e-3", "trainer.max_steps=1"]
    more += ["evaluation.enabled=false"]
    done = forked("train", *words, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "outputs/multirun").iterdir()
    jobs = json.loads((sweep / "leaderboard.json").read_text())["jobs"]
    assert [job["status"] for job in jobs[:2]] == ["finished", "finished"]
    assert jobs[2]["job"] == "1" and "optimizer.lr" in jobs[2]["status"] and jobs[2]["objective"] == 1e30
    assert "3 jobs, 1 failed, best first" in done.stdout
    assert (sweep / "0/config.yaml").is_file()
    assert [hyperparameters(sweep / job) for job in ("0", "2")] == [
        {"optimizer.lr": 1e-3, "seed": 0.0}, {"optimizer.lr": 3e-3, "seed": 0.0},
    ]  # fmt: skip


def test_the_leaderboard_shows_what_differs(tmp_path, capsys):
    rows = [
        {"job": "0", "objective": 2.0, "status": "finished", "overrides": ["a=1", "b=1"], "metrics": {"g/bpb": 1.5}},
        {"job": "1", "objective": 1e30, "status": "failed: ValueError: no", "overrides": ["a=1", "b=2"]},
    ]
    lines = list(table(tmp_path, rows))
    assert lines[2].split() == ["0", "2", "1.5", "b=1"] and "a=1" not in "".join(lines)
    Leaderboard().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert capsys.readouterr().out == "" and not (tmp_path / "leaderboard.json").exists()


def test_a_table_over_seeds_ends_a_sweep_of_seeds_alone():
    def jobs(*words: str, **more: object) -> list[dict]:
        return [{"status": "finished", "pipeline": True, "overrides": ["a=1", word], **more} for word in words]

    assert only_seeds_differ(jobs("seed=0", "seed=1"))
    assert not only_seeds_differ(jobs("seed=0"))
    assert not only_seeds_differ(jobs("seed=0", "objective=dpo"))
    assert not only_seeds_differ(jobs("seed=0", "seed=1", pipeline=False))  # runs of one stage have no chain to show
    assert not only_seeds_differ([*jobs("seed=0"), *jobs("seed=1", status="failed: ValueError")])


def test_the_objective_of_a_run():
    assert objective({"objective": -1.0}) == -1.0 and objective({"val_loss": 2.0}) == 2.0 and objective({}) == 1e30
    assert objective({"train_loss": 2.0}) == 1e30, "no loss of training data is compared with one of held-out data"
    assert objective({"objective": None, "val_loss": 2.0}) == 1e30, "nor another measure than the one that is named"


def test_jobs_that_are_compared_by_different_measures_stand_in_tables_of_their_own(tmp_path):
    rows = [
        {"job": "0", "objective": 2.0, "status": "finished", "overrides": ["a=1"], "measure": "val_loss"},
        {"job": "1", "objective": -0.7, "status": "finished", "overrides": ["a=2"], "measure": "-rankings/accuracy"},
    ]
    lines = list(table(tmp_path, rows))
    assert "val_loss (less is better)" in lines[1] and lines[2].split() == ["0", "2", "a=1"]
    assert "rankings/accuracy (more is better)" in lines[3] and lines[4].split() == ["1", "0.7", "a=2"]
    assert lines[5].startswith("2 measures")


# Groups that are null


def test_a_run_does_without_logger_callbacks_and_evaluation(words, tmp_path, caplog):
    """As it was written before; Hydra has no null for a group."""
    null = ["logger=null", "callbacks=null", "evaluation=null", "experiment=null", "trainer.max_steps=2"]
    cfg = compose("train", [*(word for word in words if not word.startswith(("callbacks", "evaluation"))), *null])
    assert not cfg.logger and not cfg.evaluation.enabled and "random_state" in cfg.callbacks
    with caplog.at_level("INFO"):
        metrics = run(cfg, tmp_path)
    told = [line.strip() for line in caplog.messages if "checkpoint:" in line]  # none is the best: nothing is measured
    assert [line.partition(":")[0] for line in told] == ["newest checkpoint"]
    assert metrics["steps"] == 2 and not metrics["heldout"] and (tmp_path / "model/config.json").is_file()
    assert not list(tmp_path.rglob("events*")) and list(tmp_path.glob("checkpoints/step-*.ckpt"))


def test_a_stage_of_a_pipeline_does_without_them_too():
    null = [f"stages.ppo.{group}=null" for group in ("logger", "callbacks", "evaluation", "gold")]
    cfg = compose("pipeline", [*null, "best_of_n=null"])
    assert not cfg.stages.ppo.logger and not cfg.stages.ppo.evaluation.enabled and cfg.best_of_n.n == 0
    assert cfg.stages.dpo.logger and cfg.stages.ppo.stage.gold is None


@pytest.mark.parametrize(
    ("name", "word", "said"),
    [
        ("train", "optimizer=null", "a run needs one; give the name of a file in conf/optimizer/"),
        ("pipeline", "loss@stages.dpo.stage.loss=null", "a run needs one; give the name of a file in conf/loss/"),
        ("pipeline", "experiment=null", "a run needs one; give the name of a file in conf/experiment/"),
        ("pipeline", "answers=null", "cannot be null; leave it out"),
    ],
)
def test_what_a_run_needs_cannot_be_null(name, word, said):
    with pytest.raises(UserError) as caught:
        check(name, hydra_words(name, [word]))
    assert str(caught.value).startswith(f"{word}: ") and said in str(caught.value) and "\n" not in str(caught.value)


# Several processes


def test_two_processes_share_one_run_folder(words, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    more = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.global_batch_size=8"]
    cfg = compose("train", [*words, *more])
    metrics = launch(cfg, tmp_path / "run")
    assert metrics["steps"] == 2 and metrics["heldout"]["general"]["bits_per_byte"]["n"] == 4
    assert len(list(tmp_path.iterdir())) == 1 and (tmp_path / "run/model/model.safetensors").is_file()


@pytest.mark.slow  # of those that start processes three are enough for every day
def test_a_mistake_in_a_process_is_one_line_here(words, tmp_path):
    cfg = compose("train", [*words, "trainer=ddp", "trainer.accelerator=cpu", "data.max_length=128"])
    with pytest.raises(UserError, match=r"data\.max_length=128: the model's context is 64"):
        launch(cfg, tmp_path / "run")


# Overlays


@pytest.mark.parametrize("debug", ["fast_dev_run", "limit", "overfit", "profiler"])
def test_debug_overlays_run(words, tmp_path, debug):
    kept = [word for word in words if not word.startswith(("trainer.max_steps", "trainer.checkpoint"))]
    kept += ["trainer.max_steps=60", "optimizer.lr=0.01"] if debug == "overfit" else []
    metrics = run(compose("train", [*kept, f"debug={debug}"]), tmp_path)
    assert (tmp_path / "model").exists() == (debug != "fast_dev_run")
    assert metrics["steps"] == {"fast_dev_run": 2, "limit": 5, "profiler": 20, "overfit": 60}[debug]
    assert debug != "overfit" or metrics["train_loss"] < 1.0  # it starts at ln 300 = 5.7


@pytest.mark.parametrize("batches", [1, 2])
def test_so_many_batches_are_the_whole_epoch_when_overfitting(words, tmp_path, batches):
    kept = [word for word in words if not word.startswith("trainer.max_steps")]
    more = [f"trainer.overfit_batches={batches}", "trainer.max_steps=null", "trainer.max_epochs=3"]
    more += ["evaluation.enabled=false"]
    assert run(compose("train", [*kept, *more]), tmp_path)["steps"] == 3 * batches


def test_no_progress_is_a_run_without_the_bar(words, tmp_path, capfd, caplog):
    more = ["callbacks=default", "trainer.progress=false", "trainer.max_steps=1", "trainer.val_check_interval=1"]
    with caplog.at_level("INFO"):
        run(compose("train", [*words, *more, "callbacks.checkpoints.monitor=val/loss"]), tmp_path / "a")
    assert sum("best checkpoint: " in line for line in caplog.messages) == 1
    assert (tmp_path / "a/model/model.safetensors").is_file() and "step 1/1" not in "".join(capfd.readouterr())


@pytest.mark.skipif(os.name != "posix", reason="flock")
def test_a_second_run_in_the_folder_is_refused(words, tmp_path):
    from lit_llm.runtime.run_lock import RunLock

    with RunLock(tmp_path), pytest.raises(UserError, match="in use by"):
        run(compose("train", words), tmp_path)
