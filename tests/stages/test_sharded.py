"""A model spread over processes learns what one process learns: same losses, same weights, whatever the stage."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

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
from lit_llm.stages.sharding import plan_of
from tests.processes import together

from .sharded_runs import CASES, STEPS, Data, Texts, assert_same, model, parts, run
from .test_processes import Liked
from .toy import END, loader, made, prompt_batch
from .training_run import trainer_for

DEFAULT = {"tied": STEPS, "untied_muon": 8, "grown": 4, "adapters": 5, "preferences": 7, "kto": 4, "flags": 4, "ppo": 2,
           "grpo": 2, "grpo_uneven": 2, "ppo_ptx": 2}  # and their steps  # fmt: skip


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
    given = {"group_size": 4, "max_new_tokens": 6, "end_ids": (END,), "temperature": 0.7}
    stage = made(GRPO, model=model().float(), reward=Liked(), **given, **parts())
    batch = prompt_batch(4)
    share = PromptBatch(*(column.chunk(processes)[data_rank()[0]] for column in batch))
    trainer(folder, processes, callbacks=[asked], max_steps=2).fit(stage, loader([share] * 2))
    return {**asked.found, "gap": stage.latest["policy/sampling_gap"], "rank": stage.global_rank}


class Even(Liked):
    """Likes all answers alike."""

    def score_tokens(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        return torch.ones(len(lengths))


def untaught(folder: Path, processes: int) -> dict[str, Any]:
    """Rollouts that teach nothing: passes without a backward one, and no step of the optimizer."""
    given = {"group_size": 2, "max_new_tokens": 6, "end_ids": (END,), "minibatches": 2}
    stage = made(GRPO, model=model().float(), reward=Even(), **given, **parts())
    before = {name: each.clone() for name, each in stage.model.state_dict().items()}
    trainer(folder, processes, max_steps=3).fit(stage, loader([prompt_batch(4)] * 3))
    stage.gather()
    after = stage.model.state_dict() if stage.global_rank == 0 else {}
    return {"gap": max([float((before[name] - each).abs().max()) for name, each in after.items()] or [0.0])} | {
        name: stage.latest[name] for name in ("objective/zero_std_groups", "policy/grad_norm", "train/updates")
    }


class Moody(Liked):
    """A reward that judges in each process otherwise, as a program with a limit of time may."""

    def score_tokens(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return super().score_tokens(input_ids, lengths) + 1000 * torch.distributed.get_rank()


def of_peers(folder: Path, processes: int) -> dict[str, Any]:
    """Rollouts that processes which compute one model together would sample, and judge, otherwise each."""
    given = {"group_size": 4, "max_new_tokens": 6, "end_ids": (END,), "minibatches": 2}
    stage = made(GRPO, model=model().float(), reward=Moody(), **given, **parts())
    rank = int(os.environ["RANK"])
    stage.sampler.randomness = lambda number, _: torch.Generator().manual_seed(10 * number + rank)  # type: ignore[method-assign]
    run = trainer(folder, processes, tensor_parallel=processes, max_steps=2)
    run.fit(stage, loader([prompt_batch(4)] * 2))
    return stage.latest


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
    found["repeated"] = run("tied", folder, 2, steps=3, shard="hybrid", replicas=2)
    found["adapters_left_out"] = run("adapters_left_out", folder, 2, tensor_parallel=2, steps=3)
    more = {"from_folder": from_folder, "from_scratch": from_scratch, "sampled": sampled, "of_peers": of_peers,
            "untaught": untaught, "resumed": resumed}  # fmt: skip
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


def test_groups_of_one_process_repeat_the_model(two, tmp_path):
    wanted = run("tied", tmp_path, steps=3)
    assert_same(two[0]["repeated"], wanted, "repeated")
    assert all(each["repeated"]["held"] == wanted["held"] for each in two)


@pytest.mark.parametrize(
    ("precision", "gathered", "added_up"),
    [("32-true", None, None), ("bf16-mixed", torch.bfloat16, torch.float32), ("bf16-true", None, torch.float32)],
)
def test_gradients_are_added_up_in_float32(precision, gathered, added_up):
    mesh = MagicMock()
    strategy = SimpleNamespace(device_mesh=mesh, root_device=torch.device("cpu"), shard="grad")
    plan = plan_of(SimpleNamespace(trainer=SimpleNamespace(strategy=strategy, precision=precision)))
    assert (plan.param_dtype, plan.reduce_dtype, plan.keep_whole) == (gathered, added_up, True)


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
        assert found["gap"] < 1e-4  # the parts, together, score what the copy has sampled, by its temperature
        torch.testing.assert_close(found["whole"], found["parts"], rtol=0, atol=1e-6)
        assert torch.equal(found["loaded"], found["parts"])
        assert found["elsewhere"] == (found["rank"] != 0)
        torch.testing.assert_close(found["saved"], found["whole"], rtol=0, atol=1e-6)
    assert torch.equal(two[0]["sampled"]["answer"], two[1]["sampled"]["answer"])


def test_processes_that_compute_one_model_learn_from_the_same_answers_and_scores(two):
    """Those of the first: what is sampled or judged twice need not be alike."""
    one, other = (each["of_peers"] for each in two)
    assert one == other and one["objective/scores"] < 100 and one["train/updates"] == 2


def test_a_rollout_that_teaches_nothing_changes_nothing(two):
    for each in two:
        assert each["untaught"] == {"gap": 0, "objective/zero_std_groups": 1, "policy/grad_norm": 0, "train/updates": 2}


def test_a_run_goes_on_from_its_checkpoint(two):
    assert all(each["resumed"]["gap"] < 1e-9 for each in two)


class Types(L.Callback):
    """In which types weights multiply, and are held, and gradients are."""

    def __init__(self) -> None:
        self.found: set[tuple[str, torch.dtype]] = set()
        self.losses: list[float] = []

    def on_train_start(self, trainer: L.Trainer, stage: Any) -> None:  # noqa: ARG002
        layer = stage.model.backbone.layers[0].mlp.up_proj
        layer.register_forward_pre_hook(lambda layer, inputs: self.found.add(("multiplied", layer.weight.dtype)))  # noqa: ARG005

    def on_before_optimizer_step(self, trainer: L.Trainer, stage: Any, optimizer: Any) -> None:  # noqa: ARG002
        for each in stage.model.parameters():
            self.found |= {("held", each.dtype), ("gradient", each.grad.dtype)}

    def on_train_batch_end(self, trainer: L.Trainer, stage: Any, *args: Any) -> None:  # noqa: ARG002
        self.losses.append(stage.latest["train/loss"])


def mixed(folder: Path, processes: int, tensor_parallel: int = 1) -> dict[str, Any]:
    types, shares = Types(), processes // tensor_parallel
    stage = Pretraining(model=model().float(), **parts(partial(adamw, lr=1e-3)))
    options = {"callbacks": [types], "max_steps": 8, "precision": "bf16-mixed"}
    data = Data(Texts(), Texts(8, 1), 4 // shares)
    trainer(folder, processes, tensor_parallel, **options).fit(stage, datamodule=data)
    return {"types": types.found, "losses": types.losses}


@pytest.mark.slow
@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_mixed_precision_gathers_in_bfloat16_and_holds_float32(tensor_parallel, tmp_path):
    """Its losses are one process's as far as bfloat16 goes: here what is added between layers is rounded too."""
    found, wanted = together(2, mixed, tmp_path, 2, tensor_parallel)[0], mixed(tmp_path, 1)
    assert found["types"] == {("multiplied", torch.bfloat16), ("held", torch.float32), ("gradient", torch.float32)}
    assert found["losses"] == pytest.approx(wanted["losses"], rel=0.02) and len(found["losses"]) == 8


def cases(folder: Path, names: list[str], processes: int, options: dict[str, Any]) -> dict[str, Any]:
    return {name: run(name, folder, processes, **options) for name in names}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds in every case."""
    return cases(tmp_path_factory.mktemp("alone"), list(CASES), 1, {})


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, {}),
        (2, {"shard": "grad"}),
        (4, {}),
        (4, {"shard": "hybrid", "replicas": 2}),
        (2, {"tensor_parallel": 2}),
        (4, {"tensor_parallel": 2}),
        (4, {"tensor_parallel": 2, "shard": "hybrid", "replicas": 2}),
    ],
)
def test_every_way_to_share_out_in_every_stage(processes, options, alone, tmp_path):
    """With ``-s`` it says how far losses and weights are from one process's."""
    found = together(processes, cases, tmp_path, list(CASES), processes, options, seconds=3000)
    for name in CASES:
        losses, weights = assert_same(found[0][name], alone[name], f"{name} {processes} {options}")
        parts_of_it = processes // options.get("replicas", 1)
        assert max(each[name]["held"] for each in found) < 1.3 / parts_of_it * alone[name]["held"], name
        print(f"{processes} {options} {name}: losses {losses:.1e}, weights {weights:.1e}", flush=True)
