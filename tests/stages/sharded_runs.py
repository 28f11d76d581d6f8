"""Runs of every kind of stage, in one process or spread over several, that are told apart by nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.lora import adapted, apply_lora
from lit_llm.backbone.models import LanguageModel
from lit_llm.callbacks.throughput import Throughput
from lit_llm.data.labelled_answers import labelled_batch
from lit_llm.data.loading import ResumableLoader, shuffled
from lit_llm.data.ranking_rows import ranking_batch
from lit_llm.optim.adamw import adamw
from lit_llm.optim.muon import muon_adamw
from lit_llm.optim.schedules import constant
from lit_llm.records import IGNORE, LabelledBatch, Rollout, TokenBatch
from lit_llm.runtime.sharded_strategy import ShardedStrategy
from lit_llm.stages.continued_pretraining import ContinuedPretraining
from lit_llm.stages.flag_classification import FlagClassification
from lit_llm.stages.grpo import GRPO
from lit_llm.stages.instruction_tuning import InstructionTuning
from lit_llm.stages.kto import KTO
from lit_llm.stages.ppo import PPO
from lit_llm.stages.preference_optimization import PreferenceOptimization
from lit_llm.stages.pretraining import Pretraining
from lit_llm.stages.reward_modeling import RewardModeling

from .test_processes import LONG, PLAIN, Liked, Shares, rollout
from .toy import END, LIKED, VOCABULARY, made, rankings
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

    def __init__(self, prompts: int = ROWS, annotators: int = 0) -> None:
        batch, self.annotators = rankings(prompts), annotators
        self.rows = [batch.completions.rows[3 * n : 3 * n + 3] for n in range(prompts)]
        self.ranks = batch.ranks.view(-1, 3).tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, items: Any) -> Any:
        rows = [row for item in items for row in self.rows[item]]
        groups = [group for group in range(len(items)) for _ in range(3)]
        ranks = [rank for item in items for rank in self.ranks[item]]
        who = [item % self.annotators for item in items] if self.annotators else None
        return ranking_batch(rows, groups, ranks, [1.0] * len(items), annotators=who)


class Labels:
    """Prompts with an answer each, good or bad, and the answer of the next prompt beside it."""

    def __init__(self, prompts: int = ROWS) -> None:
        self.rows = rankings(prompts).completions.rows[::3]
        self.good = [int((answer == LIKED).sum()) >= 2 for _, answer in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, items: Any) -> LabelledBatch:
        labels, weights = [self.good[item] for item in items], [0.5 + item % 3 for item in items]
        others = [(self.rows[item][0], self.rows[(item + 1) % len(self)][1]) for item in items]
        return labelled_batch([self.rows[item] for item in items], labels, weights, unrelated=others)


class Data(L.LightningDataModule):
    source_names = ("general",)
    annotators: tuple[str, ...] = ()
    training_comparisons_by: Mapping[str, int] = {}

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
    """Held to what the adapters began as."""
    network = apply_lora(model(), 4, 32.0, 0.0)
    for layer in adapted(network).values():
        torch.nn.init.normal_(layer.lora_B.weight, std=0.05)
    stage = made(PreferenceOptimization, model=network, lora_rank=4, **parts(partial(adamw, lr=1e-3)))
    return stage, Data(Rankings(), Rankings(8), 4 // shares), {}


def reward_model(shares: int) -> Any:
    stage = RewardModeling(model=model(), **parts(partial(adamw, lr=1e-3)))
    return stage, Data(Rankings(), Rankings(8), 4 // shares), {}


def reward_model_by_annotators(shares: int) -> Any:
    """Each annotator's factor is a plain tensor beside those that are shared out."""
    stage = made(RewardModeling, model=model(), adherence="learned", adherence_lr=0.1, **parts(partial(adamw, lr=1e-3)))
    data = Data(Rankings(annotators=2), Rankings(8, annotators=2), 4 // shares)
    data.annotators, data.training_comparisons_by = ("ann", "bob"), {"ann": ROWS // 2, "bob": ROWS // 2}
    return stage, data, {}


def labels(stage: Any, shares: int) -> tuple[Any, Any, dict[str, Any]]:
    return stage, Data(Labels(), Labels(8), 4 // shares), {}


def kto(shares: int) -> Any:
    """Its baseline is a mean over the rows of all processes."""
    return labels(KTO(model=model(), **parts(partial(adamw, lr=1e-3))), shares)


def kto_by_adapters(shares: int) -> Any:
    return labels(made(KTO, model=model(), lora_rank=4, **parts(partial(adamw, lr=1e-3))), shares)


def flags(shares: int) -> Any:
    """Balanced by all processes' labels; its threshold is chosen by all processes' answers."""
    return labels(made(FlagClassification, model=model(), positive_weight="balanced", **parts()), shares)


def flags_by_adapters(shares: int) -> Any:
    return labels(made(FlagClassification, model=model(), lora_rank=4, lora_dropout=0.0, **parts()), shares)


def flags_by_head(shares: int) -> Any:
    """Of a transformer that stays as it is."""
    return labels(made(FlagClassification, model=model(), trained="head", **parts()), shares)


def on_policy(kind: Any, shares: int, bounds: tuple[int, ...] | None = None, **options: Any) -> Any:
    """The same answers in one process and in several, each with its share of them: an even one, or up to ``bounds``."""
    given = {"max_new_tokens": LONG, "end_ids": (END,), "max_grad_norm": 1.0, "micro_batch_size": 3} | PLAIN
    stage = made(kind, model=model().float(), reward=Liked(), **(given | options))
    ends = [8 * number // shares for number in range(shares + 1)] if bounds is None else [0, *bounds]

    def sample(*_: Any) -> Rollout:
        share = stage.global_rank * shares // stage.trainer.world_size
        return Rollout(*(column[ends[share] : ends[share + 1]] for column in rollout(8)))

    stage.sampler.sample = sample
    ptx = bool(getattr(stage.options, "ptx_coef", 0.0))
    return stage, Shares(shares, ptx), {"max_steps": 2, "max_epochs": -1, "limit_val_batches": 0}


def ppo(shares: int) -> Any:
    return on_policy(PPO, shares, ptx_coef=0.0, vf_coef=0.5, kl_coef=0.0, epochs=2)


def ppo_ptx(shares: int) -> Any:
    """With text mixed in, a price of the KL that is steered, and the end of the data: five answers for one share, three
    for the other."""
    options = {"ptx_coef": 2.0, "vf_coef": 0.5, "kl_coef": 0.1, "epochs": 2, "adaptive_kl_target": 0.01}
    return on_policy(PPO, shares, (5, 8)[-shares:], **options)


def ppo_by_adapters(shares: int) -> Any:
    return on_policy(PPO, shares, ptx_coef=0.0, kl_coef=0.0, epochs=1, lora_rank=4)


def grpo(shares: int) -> Any:
    return on_policy(GRPO, shares, group_size=2, scale="batch", **parts(partial(adamw, lr=1e-3)))


def grpo_uneven(shares: int) -> Any:
    """The end of the data: two groups for one share, whose short answers teach nothing, and one for the other."""
    options = {"group_size": 2, "aggregation": "sequence_mean", "epochs": 2, "target_kl": 1.0}
    return on_policy(GRPO, shares, (4, 6)[-shares:], **options, **parts(partial(adamw, lr=1e-3)))


CASES: dict[str, Callable[[int], Any]] = {
    each.__name__: each
    for each in (tied, untied_muon, grown, recomputed, adapters, adapters_decomposed, preferences,
                 preferences_by_adapters, preferences_from_adapters, kto, kto_by_adapters, reward_model,
                 reward_model_by_annotators, flags, flags_by_adapters, flags_by_head, ppo, ppo_by_adapters, grpo)
}  # fmt: skip
OF_ONE_SHARE = {"adapters_left_out": adapters_left_out}
OF_TWO_SHARES = {"grpo_uneven": grpo_uneven, "ppo_ptx": ppo_ptx}


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
    """Steps and validations of a run, its weights (in the first process), a classifier's threshold and the tokens that
    were counted.

    ``resume``: the checkpoint that it goes on from; ``keep``: the one that it writes."""
    shares = processes // tensor_parallel
    L.seed_everything(1, verbose=False)
    stage, data, options = (CASES | OF_ONE_SHARE | OF_TWO_SHARES)[case](shares)
    recorder, throughput = Recorder(), Throughput(mfu=False)
    usual = {"max_steps": steps, "max_epochs": -1, "val_check_interval": 8, "check_val_every_n_epoch": None}
    if stage.automatic_optimization:
        usual |= {"gradient_clip_val": 0.5}
    if processes > 1:
        usual |= {"devices": processes, "strategy": kind(shares, tensor_parallel, **strategy)}
    trainer = trainer_for(folder, [recorder, throughput], enable_checkpointing=False, **(usual | options))
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
    return {"steps": steps_told, "validations": recorder.validations, "weights": weights, "held": held,
            "threshold": getattr(stage.model, "threshold", None), "tokens": throughput.total}  # fmt: skip


def assert_same(found: dict[str, Any], wanted: dict[str, Any], case: str) -> tuple[float, float]:
    """All that is told of each step (losses, norms, metrics) and the weights, within 1e-5.

    Returns the largest differences of losses, and of weights."""
    assert len(found["steps"]) == len(wanted["steps"]) > 1, case
    losses = weights = 0.0
    for step, (one, two) in enumerate(zip(found["steps"], wanted["steps"], strict=True)):
        assert one.keys() == two.keys(), case
        for name in two:
            gap = abs(one[name] - two[name])
            assert gap <= 1e-5 * max(1.0, abs(two[name])), (case, step, name, one[name], two[name])
            losses = max(losses, gap) if name.endswith("loss") else losses
    torch.testing.assert_close(found["validations"], wanted["validations"], rtol=1e-5, atol=1e-5, msg=case)
    assert found["tokens"] == wanted["tokens"], case  # peers read the same ones, which count once
    if wanted["threshold"] is not None:
        assert abs(found["threshold"] - wanted["threshold"]) <= 1e-5, case
    assert found["weights"].keys() == wanted["weights"].keys(), case
    for name, weight in wanted["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=1e-5, atol=1e-5, msg=f"{case} {name}")
        weights = max(weights, float((found["weights"][name] - weight).abs().max()))
    return losses, weights
