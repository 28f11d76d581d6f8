"""Runs of every kind of stage, in one process or spread over several, that are told apart by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.lora import adapted, apply_lora
from lit_llm.backbone.models import LanguageModel
from lit_llm.data.loading import ResumableLoader, shuffled
from lit_llm.data.ranking_rows import ranking_batch
from lit_llm.optim.adamw import adamw
from lit_llm.optim.muon import muon_adamw
from lit_llm.optim.schedules import constant
from lit_llm.records import IGNORE, Rollout, TokenBatch
from lit_llm.runtime.sharded_strategy import ShardedStrategy
from lit_llm.stages.continued_pretraining import ContinuedPretraining
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.instruction_tuning import InstructionTuning
from lit_llm.stages.ppo import PPO
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.pretraining import Pretraining
from lit_llm.stages.reward_modeling import RewardModeling

from .test_processes import LONG, PLAIN, Liked, Shares, rollout
from .toy import END, VOCABULARY, made, rankings
from .training_run import trainer_for

STEPS, ROWS, LENGTH = 20, 24, 9


def model(vocab_size: int = VOCABULARY, **values: Any) -> LanguageModel:
    torch.manual_seed(0)
    shape = {"family": "qwen3", "hidden_size": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8,
             "intermediate_size": 32, "max_positions": 64, "initializer_range": 0.2}  # fmt: skip
    return LanguageModel(BackboneConfig(vocab_size=vocab_size, **(shape | values))).double()


class Texts:
    """Rows of random tokens in packed documents, with uneven numbers of trained ones."""

    def __init__(self, rows: int = ROWS, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(VOCABULARY, (rows, LENGTH + 1), generator=g)
        self.trained = torch.randint(1, LENGTH + 1, (rows,), generator=g)
        self.second = torch.randint(1, LENGTH, (rows,), generator=g)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, items: Any) -> TokenBatch:
        items = list(items)
        rows, places = self.tokens[items], torch.arange(LENGTH)
        labels = torch.where(places >= self.trained[items, None], IGNORE, rows[:, 1:])
        segments = (places >= self.second[items, None]).long()
        positions = torch.where(segments == 1, places - self.second[items, None], places)
        return TokenBatch(rows[:, :-1], labels, positions, segments, torch.zeros_like(labels))


class Rankings:
    """Prompts with three ranked answers each, of all lengths."""

    def __init__(self, prompts: int = ROWS) -> None:
        batch = rankings(prompts)
        self.rows = [batch.completions.rows[3 * n : 3 * n + 3] for n in range(prompts)]
        self.ranks = batch.ranks.view(-1, 3).tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, items: Any) -> Any:
        rows = [row for item in items for row in self.rows[item]]
        groups = [group for group in range(len(items)) for _ in range(3)]
        return ranking_batch(rows, groups, [rank for item in items for rank in self.ranks[item]], [1.0] * len(items))


class Data(L.LightningDataModule):
    source_names = ("general",)

    def __init__(self, rows: Any, held_out: Any, batch_size: int) -> None:
        super().__init__()
        self.rows, self.held_out, self.batch_size = rows, held_out, batch_size

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.rows, self.batch_size, order=shuffled(len(self.rows), 3))

    def val_dataloader(self) -> list[ResumableLoader]:
        return [ResumableLoader(self.held_out, self.batch_size)]


def exact_muon(module: Any) -> Any:
    optimizer = muon_adamw(module, lr=3e-3)
    optimizer.dtype = torch.float64
    return optimizer


def parts(optimizer: Any = None) -> dict[str, Any]:
    return {"optimizer": optimizer or partial(adamw, lr=3e-3), "schedule": constant}


def texts(stage: Any, shares: int) -> tuple[Any, Any, dict[str, Any]]:
    return stage, Data(Texts(), Texts(8, 1), 4 // shares), {"accumulate_grad_batches": 2}


def tied(shares: int) -> Any:
    return texts(Pretraining(model=model(), **parts()), shares)


def untied_muon(shares: int) -> Any:
    return texts(Pretraining(model=model(tie_embeddings=False), **parts(exact_muon)), shares)


def grown(shares: int) -> Any:
    """Some rows of embedding and head learn faster."""
    stage = made(ContinuedPretraining, new_rows_lr=0.01, model=model(tie_embeddings=False), **parts())
    stage.new_rows = [2, VOCABULARY // 2, VOCABULARY - 1]
    return texts(stage, shares)


def recomputed(shares: int) -> Any:
    stage = Pretraining(model=model(), **parts())
    stage.model.backbone.gradient_checkpointing = True
    return texts(stage, shares)


def adapters(shares: int) -> Any:
    options = {"lora_rank": 4, "lora_dropout": 0.0}
    return texts(made(InstructionTuning, model=model(), **options, **parts()), shares)


def adapters_decomposed(shares: int) -> Any:
    options = {"lora_rank": 4, "lora_dropout": 0.0, "lora_dora": True}
    return texts(made(InstructionTuning, model=model(), **options, **parts()), shares)


def adapters_left_out(shares: int) -> Any:
    """Equal to one process's only where all processes compute one share of the rows."""
    options = {"lora_rank": 4, "lora_dropout": 0.2, "lora_dora": True}
    return texts(made(InstructionTuning, model=model(), **options, **parts()), shares)


def preferences(shares: int) -> Any:
    stage = PreferenceOptimization(model=model(), **parts(partial(adamw, lr=1e-3)))
    return stage, Data(Rankings(), Rankings(8), 4 // shares), {}


def preferences_by_adapters(shares: int) -> Any:
    options = {"lora_rank": 4}
    stage = made(PreferenceOptimization, model=model(), **options, **parts(partial(adamw, lr=1e-3)))
    return stage, Data(Rankings(), Rankings(8), 4 // shares), {}


def preferences_from_adapters(shares: int) -> Any:
    """Adapters that are trained on, held to what they began as."""
    network = apply_lora(model(), 4, 32.0, 0.0)
    for layer in adapted(network).values():
        torch.nn.init.normal_(layer.lora_B.weight, std=0.05)
    stage = made(PreferenceOptimization, model=network, lora_rank=4, **parts(partial(adamw, lr=1e-3)))
    return stage, Data(Rankings(), Rankings(8), 4 // shares), {}


def reward_model(shares: int) -> Any:
    stage = RewardModeling(model=model(), **parts(partial(adamw, lr=1e-3)))
    return stage, Data(Rankings(), Rankings(8), 4 // shares), {}


def on_policy(kind: Any, shares: int, **options: Any) -> Any:
    """The same answers in one process and in several, each with its share of them."""
    given = {"max_new_tokens": LONG, "end_ids": (END,), "max_grad_norm": 1.0, "micro_batch_size": 3} | PLAIN
    stage = made(kind, model=model().float(), reward=Liked(), **(given | options))
    size = 8 // shares

    def sample(*_: Any) -> Rollout:
        first = (stage.global_rank * shares // stage.trainer.world_size) * size
        return Rollout(*(column[first : first + size] for column in rollout(8)))

    stage.sampler.sample = sample
    return stage, Shares(shares, False), {"max_steps": 2, "max_epochs": -1, "limit_val_batches": 0}


def ppo(shares: int) -> Any:
    return on_policy(PPO, shares, ptx_coef=0.0, vf_coef=0.5, kl_coef=0.0, epochs=2)


def ppo_by_adapters(shares: int) -> Any:
    return on_policy(PPO, shares, ptx_coef=0.0, kl_coef=0.0, epochs=1, lora_rank=4)


def grpo(shares: int) -> Any:
    return on_policy(GRPO, shares, group_size=2, scale="batch", **parts(partial(adamw, lr=1e-3)))


CASES: dict[str, Callable[[int], Any]] = {
    each.__name__: each
    for each in (tied, untied_muon, grown, recomputed, adapters, adapters_decomposed, preferences,
                 preferences_by_adapters, preferences_from_adapters, reward_model, ppo, ppo_by_adapters, grpo)
}  # fmt: skip
OF_ONE_SHARE = {"adapters_left_out": adapters_left_out}


class Recorder(L.Callback):
    """Every step's numbers, and each validation's loss."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}
        self.first = 0
        self.validations: list[float] = []

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.first = trainer.global_step
        torch.manual_seed(2)  # what is drawn before, when processes find each other, is not the run's

    def on_train_batch_end(self, trainer: L.Trainer, stage: Any, *_: Any) -> None:
        if stage.latest and trainer.global_step > self.first:
            self.steps[trainer.global_step] = dict(stage.latest)

    def on_validation_end(self, trainer: L.Trainer, stage: Any) -> None:  # noqa: ARG002
        self.validations.append(float(trainer.callback_metrics["val/loss"]))


def run(
    case: str,
    folder: Path,
    processes: int = 1,
    tensor_parallel: int = 1,
    steps: int = STEPS,
    kind: Any = ShardedStrategy,
    resume: Path | None = None,
    keep: Path | None = None,
    **strategy: Any,
) -> dict[str, Any]:
    """Steps and validations of a run, and its weights at the end (in the first process).

    ``resume``: the checkpoint that it goes on from; ``keep``: the one that it writes."""
    shares = processes // tensor_parallel
    L.seed_everything(1, verbose=False)
    stage, data, options = (CASES | OF_ONE_SHARE)[case](shares)
    recorder = Recorder()
    usual = {"max_steps": steps, "max_epochs": -1, "val_check_interval": 8, "check_val_every_n_epoch": None}
    if stage.automatic_optimization:
        usual |= {"gradient_clip_val": 0.5}
    if processes > 1:
        usual |= {"devices": processes, "strategy": kind(shares, tensor_parallel, **strategy)}
    trainer = trainer_for(folder, [recorder], enable_checkpointing=False, **(usual | options))
    trainer.fit(stage, datamodule=data, ckpt_path=resume, weights_only=True)
    if keep is not None:
        trainer.save_checkpoint(keep)
    if stage.sharding is not None:
        stage.sharding.reshard()  # the last validation's forward pass has left embedding and head whole
    held = sum(parameter.to_local().numel() if hasattr(parameter, "to_local") else parameter.numel()
               for parameter in stage.model.parameters())  # fmt: skip
    stage.gather()
    weights = stage.model.state_dict() if stage.global_rank == 0 else {}
    steps_told = list(recorder.steps.values())
    return {"steps": steps_told, "validations": recorder.validations, "weights": weights, "held": held}


def assert_same(found: dict[str, Any], wanted: dict[str, Any], case: str) -> None:
    """Losses, norms and weights, within 1e-5; each number of training that one run tells is told by the other."""
    assert len(found["steps"]) == len(wanted["steps"]) > 1, case
    for step, (one, two) in enumerate(zip(found["steps"], wanted["steps"], strict=True)):
        for name in ("train/loss", "loss", "train/grad_norm", "policy/grad_norm", "value/grad_norm"):
            assert (name in one) == (name in two), (case, name)
            if name in one:
                gap = abs(one[name] - two[name])
                assert gap <= 1e-5 * max(1.0, abs(two[name])), (case, step, name, one[name], two[name])
    torch.testing.assert_close(found["validations"], wanted["validations"], rtol=1e-5, atol=1e-5, msg=case)
    assert found["weights"].keys() == wanted["weights"].keys(), case
    for name, weight in wanted["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=1e-5, atol=1e-5, msg=f"{case} {name}")
