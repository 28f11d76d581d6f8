"""A model spread over processes learns what one process learns: same losses, same weights, whatever the stage."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lit_llm.backbone.deferred_weights import load_outline, on_meta
from lit_llm.backbone.fresh_weights import outline_of
from lit_llm.backbone.huggingface import load_model, save_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.sharded_folder import save_sharded
from lit_llm.generation.sampling import generate
from lit_llm.optim.adamw import adamw
from lit_llm.records import PromptBatch
from lit_llm.runtime.distributed import data_rank
from lit_llm.runtime.sharded_strategy import ShardedStrategy
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.pretraining import Pretraining
from tests.processes import together

from .sharded_runs import CASES, STEPS, Data, Texts, assert_same, model, parts, run
from .test_processes import Liked
from .toy import END, loader, made, prompt_batch
from .training_run import trainer_for

DEFAULT = {  # and their steps
    "tied": STEPS, "untied_muon": 8, "grown": 4, "adapters": 5, "preferences": 7, "ppo": 2, "grpo": 2,
}  # fmt: skip


def trainer(folder: Path, processes: int, tensor_parallel: int = 1, **options: Any) -> L.Trainer:
    quiet = {"max_steps": 3, "max_epochs": -1, "limit_val_batches": 0, "enable_checkpointing": False}
    strategy = ShardedStrategy(processes // tensor_parallel, tensor_parallel) if processes > 1 else "auto"
    several = {"devices": processes, "strategy": strategy} if processes > 1 else {}
    return trainer_for(folder, options.pop("callbacks", []), **(quiet | several | options))


def from_folder(folder: Path, processes: int) -> dict[str, Any]:
    """A run whose weights are read part by part; the same in one process reads them whole."""
    return begun(folder, processes, load_outline(folder / "model") if processes > 1 else load_model(folder / "model"))


def from_scratch(folder: Path, processes: int) -> dict[str, Any]:
    """The same of weights that are drawn."""
    torch.manual_seed(5)
    config = dataclasses.replace(model().config, tie_embeddings=False)
    return begun(folder, processes, outline_of(config) if processes > 1 else LanguageModel(config))


def begun(folder: Path, processes: int, network: Any) -> dict[str, Any]:
    outside = len(on_meta(network))
    stage = Pretraining(model=network, **parts(partial(adamw, lr=1e-4)))
    trainer(folder, processes).fit(stage, datamodule=Data(Texts(), Texts(8, 1), 4 // processes))
    stage.gather()
    first = stage.global_rank == 0
    return {"outside": outside, "weights": stage.model.state_dict() if first else {}, "loss": stage.latest}


class Asked(L.Callback):
    """At the end of training: what the whole copy answers, beside what the parts compute."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def on_train_end(self, trainer: L.Trainer, stage: Any) -> None:
        ids = torch.arange(6, 16).view(2, 5)
        with torch.no_grad(), stage.whole() as network:
            self.found = {"whole": network.logits(network(ids))}
            answers = generate(network, [[7, 8, 9]], max_new_tokens=4, end_ids=(END,), seed=3)
            self.found["answer"] = answers.input_ids
            kept = {f"model.{name}": weight.clone() for name, weight in network.state_dict().items()}
        with torch.no_grad():
            self.found["parts"] = stage(ids)
        stage.sharding.reshard()
        with torch.no_grad():
            torch._foreach_zero_([parameter.to_local() for parameter in stage.model.parameters()])
            stage.load_state_dict(kept)  # as a run does that goes back to weights of before
            self.found["loaded"] = stage(ids)
        with stage.whole(everywhere=False) as network:
            self.found["elsewhere"] = network is None
        saved = Path(trainer.default_root_dir) / "saved"
        save_sharded(saved, stage.model)  # the policy's weights stand whole for the next forward pass
        with torch.no_grad():
            again = load_model(saved)
            self.found["saved"] = again.logits(again(ids))  # type: ignore[union-attr, operator]


def sampled(folder: Path, processes: int) -> dict[str, Any]:
    """Rollouts of GRPO as they come, and what is asked of the policy afterwards."""
    asked = Asked()
    stage = made(GRPO, model=model().float(), reward=Liked(), group_size=4, max_new_tokens=6, end_ids=(END,), **parts())
    batch = prompt_batch(4)
    share = PromptBatch(*(column.chunk(processes)[data_rank()[0]] for column in batch))
    trainer(folder, processes, callbacks=[asked], max_steps=2).fit(stage, loader([share] * 2))
    return {**asked.found, "gap": stage.latest["policy/sampling_gap"], "rank": stage.global_rank}


def resumed(folder: Path, processes: int) -> dict[str, Any]:
    """A run that stops after three steps and goes on, beside one that does not."""
    found = []
    for stop in (3, 6):
        stage = Pretraining(model=model(), **parts(partial(adamw, lr=3e-3)))
        run = trainer(folder, processes, max_steps=stop)
        path = folder / "three.ckpt"
        data = Data(Texts(), Texts(8, 1), 4 // processes)
        run.fit(stage, datamodule=data, ckpt_path=None if stop == 3 else path, weights_only=True)
        if stop == 3:
            run.save_checkpoint(path)
        found.append(stage)
    straight = Pretraining(model=model(), **parts(partial(adamw, lr=3e-3)))
    trainer(folder, processes, max_steps=6).fit(straight, datamodule=Data(Texts(), Texts(8, 1), 4 // processes))
    pairs = zip(found[-1].model.parameters(), straight.model.parameters(), strict=True)
    return {"gap": max(float((one.to_local() - two.to_local()).abs().max()) for one, two in pairs)}


def everything(folder: Path) -> dict[str, Any]:
    found = {name: run(name, folder, 2, steps=steps) for name, steps in DEFAULT.items()}
    found["adapters_left_out"] = run("adapters_left_out", folder, 2, tensor_parallel=2, steps=3)
    more = {"from_folder": from_folder, "from_scratch": from_scratch, "sampled": sampled, "resumed": resumed}
    return found | {name: work(folder, 2) for name, work in more.items()}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, of all cases: they are started once."""
    folder = tmp_path_factory.mktemp("two")
    save_model(folder / "model", model().float())
    return together(2, everything, folder)


@pytest.mark.parametrize("case", list(DEFAULT))
def test_two_processes_learn_what_one_does(case, two, tmp_path):
    wanted = run(case, tmp_path, steps=DEFAULT[case])
    assert_same(two[0][case], wanted, case)
    held = [each[case]["held"] / wanted["held"] for each in two]
    assert sum(held) == pytest.approx(1, abs=0.02) and max(held) < 0.6  # each holds its part alone


def test_two_processes_that_compute_adapted_layers_together_leave_out_what_one_does(two, tmp_path):
    assert_same(two[0]["adapters_left_out"], run("adapters_left_out", tmp_path, steps=3), "adapters_left_out")


@pytest.mark.parametrize("start", [from_folder, from_scratch])
def test_weights_begin_part_by_part(start, two, tmp_path):
    save_model(tmp_path / "model", model().float())
    wanted, found = start(tmp_path, 1), two[0][start.__name__]
    assert found["outside"] > 20 and wanted["outside"] == 0
    assert found["loss"]["train/loss"] == pytest.approx(wanted["loss"]["train/loss"], abs=1e-5)
    assert found["weights"].keys() == wanted["weights"].keys()
    for name, weight in wanted["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=1e-5, msg=name)


def test_answers_are_sampled_by_a_whole_copy(two):
    for each in two:
        found = each["sampled"]
        assert found["gap"] < 1e-4  # the parts, together, score what the copy has sampled
        torch.testing.assert_close(found["whole"], found["parts"], rtol=0, atol=1e-6)
        assert torch.equal(found["loaded"], found["parts"])
        assert found["elsewhere"] == (found["rank"] != 0)
        torch.testing.assert_close(found["saved"], found["whole"], rtol=0, atol=1e-6)
    assert torch.equal(two[0]["sampled"]["answer"], two[1]["sampled"]["answer"])


def test_a_run_goes_on_from_its_checkpoint(two):
    assert all(each["resumed"]["gap"] < 1e-9 for each in two)


def cases(folder: Path, names: list[str], processes: int, options: dict[str, Any]) -> dict[str, Any]:
    return {name: run(name, folder, processes, **options) for name in names}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, {}),
        (2, {"shard": "grad"}),
        (4, {}),
        (4, {"shard": "hybrid", "replicas": 2}),
        (2, {"tensor_parallel": 2}),
        (4, {"tensor_parallel": 2}),
    ],
)
def test_every_way_to_share_out_in_every_stage(processes, options, tmp_path):
    found = together(processes, cases, tmp_path, list(CASES), processes, options)
    for name in CASES:
        assert_same(found[0][name], run(name, tmp_path), f"{name} {processes} {options}")
