"""Every stage with a model of transformers, and a run of it that goes on to equal weights."""

import logging
from contextlib import suppress

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from lit_llm.backbone.huggingface import load_model
from lit_llm.checkpointing.resume import find_checkpoint
from lit_llm.config.command_line import compose
from lit_llm.config.validation import validate
from lit_llm.errors import UserError
from lit_llm.export.gguf_file import read_model
from lit_llm.stages.flag_classification import FlagClassification
from lit_llm.stages.initial_model import initial_model
from lit_llm.stages.options import FineTuningOptions
from lit_llm.stages.reward_modeling import RewardModeling
from lit_llm.training import trainer as trainers
from lit_llm.training.build import load
from lit_llm.training.plan.memory import Pass, shape_of
from lit_llm.training.plan.remedies import what_would_fit
from lit_llm.training.train import needs_less, run
from tests.chain_data import write_data, write_rankings
from tests.other_families import folder_of

transformers = pytest.importorskip("transformers")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")

COMMON = [
    "backbone=transformers", "trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=2", "logger=csv",
    "trainer.limit_val_batches=1", "trainer.progress=false", "callbacks=none", "data.micro_batch_size=2",
    "optimizer.lr=1e-2", "evaluation.enabled=false", "trainer.checkpoint_every_n_steps=1",
]  # fmt: skip
ROLLOUTS = ["reward=length", "stage.max_new_tokens=4", "stage.minibatches=2"]
ROLLOUTS += ["stage.reward.unit=characters", "stage.reward.most=1", "stage.reward.margin=30"]  # which tells them apart
STAGES = {
    "continued_pretraining": ("domain", ["data.max_length=32", "data.replay_ratio=0.4", "stage.lora_rank=2"]),
    "fine_tuning": ("task_pairs", ["data.max_length=96", "stage.lora_rank=2"]),
    "instruction_tuning": ("instructions", ["data.max_length=96", "stage.neftune_noise_alpha=5"]),
    "reward_modeling": ("rankings", ["data.max_length=96"]),
    "flag_classification": ("rankings", ["data.max_length=96", "data.label=desirable"]),
    "dpo": ("rankings", ["data.max_length=96"]),
    "kto": ("rankings", ["data.max_length=96", "stage.lora_rank=2"]),
    "ppo": ("prompts", ["stage.lora_rank=2", *ROLLOUTS]),
    "grpo": ("prompts", ["stage.group_size=2", "stage.kl_coef=0.1", *ROLLOUTS]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    write_rankings(folder, 2)
    return folder


def pretraining(data, *words):
    """From random weights in the shape of a Falcon, with dropout."""
    shape = data / "shape"
    transformers.FalconConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, max_position_embeddings=96,
        architectures=["FalconForCausalLM"],
    ).save_pretrained(shape)  # fmt: skip
    own = [f"backbone.config={shape}", "tokenizer.vocab_size=300", "backbone.dropout=0.1", "data.max_length=32"]
    return compose("train", [*COMMON, *own, f"data.path={data}/raw_text", f"data.cache_dir={data}/cache", *words])


@pytest.fixture(scope="module")
def parent(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    run(pretraining(data), folder)
    return folder / "model"


# With a loss, a head and a loader of the same kind as one that runs every day.
LIKE_OTHERS = ("fine_tuning", "flag_classification", "kto", "grpo")


@pytest.mark.parametrize(
    "stage", [pytest.param(one, marks=[pytest.mark.slow] * (one in LIKE_OTHERS)) for one in STAGES]
)
def test_a_stage_trains_it_and_its_own_class_reads_it_again(stage, data, parent, tmp_path):
    kind, words = STAGES[stage]
    given = [f"stage={stage}", f"init_from={parent}", f"data.path={data}/{kind}", f"data.cache_dir={data}/cache"]
    given += [f"data.replay_path={data}/raw_text"] if "data.replay_ratio=0.4" in words else []
    run(compose("train", [*COMMON, *given, *words]), tmp_path)
    model = load_model(tmp_path / "model", head="auto").eval()
    scores = stage in ("reward_modeling", "flag_classification")
    auto = transformers.AutoModelForSequenceClassification if scores else transformers.AutoModelForCausalLM
    theirs = auto.from_pretrained(tmp_path / "model").eval()
    assert type(theirs).__name__ == ("FalconForSequenceClassification" if scores else "FalconForCausalLM")
    ids = torch.tensor([[7, 8, 9, 10, 11]])
    with torch.no_grad():
        found = model.values(ids)[:, -1:] if scores else model.logits(model(ids))
        torch.testing.assert_close(found, theirs(ids).logits, rtol=1e-5, atol=1e-5)
    start, end = load_file(parent / "model.safetensors"), load_file(tmp_path / "model/model.safetensors")
    assert any(not torch.equal(start[name], end[name]) for name in start.keys() & end.keys())


class StopsAfter(L.Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.steps:
            raise KeyboardInterrupt


def fitted(cfg, folder, stop=None):
    """The weights after a run, or after what is left of it, in ``folder``."""
    parts = load(cfg, folder)
    if stop is not None:
        parts.callbacks.append(StopsAfter(stop))
    trainer = trainers.build(parts, folder)
    checkpoint = find_checkpoint(folder) if folder.joinpath("checkpoints").is_dir() else None
    with suppress(KeyboardInterrupt, SystemExit):
        trainer.fit(parts.stage, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
    return trainer.global_step, parts.stage.model.state_dict()


def test_a_run_that_stopped_goes_on_to_equal_weights(data, tmp_path):
    cfg = pretraining(data, "trainer.max_steps=4")
    steps, whole = fitted(cfg, tmp_path / "whole")
    half, _ = fitted(cfg, tmp_path / "parts", stop=2)
    rest, parts = fitted(cfg, tmp_path / "parts")
    assert (steps, half, rest) == (4, 2, 4)
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_family_is_refused_without_the_backbone_and_by_gguf(data, parent, tmp_path):
    words = ["stage=instruction_tuning", f"init_from={parent}", f"data.path={data}/instructions", *COMMON[1:]]
    with pytest.raises(UserError, match=r"FalconForCausalLM.*read with backbone=transformers"):
        run(compose("train", words), tmp_path)
    with pytest.raises(UserError, match="transformers computes is not written into GGUF here; export with to=hugg"):
        read_model(parent)


def test_a_plan_knows_its_size(data, parent):
    words = ["stage=instruction_tuning", f"init_from={parent}", f"data.path={data}/instructions", *COMMON]
    shape = shape_of(compose("train", words))
    held = sum(each.numel() for each in load_file(parent / "model.safetensors").values())
    assert shape.parameters == shape.trained == held
    memory = shape.memory(Pass(2, 32), 0.0)
    assert memory.weights == memory.gradients == 4 * held and memory.activations > 2 * 32 * 32 * 4


def test_four_bits_are_neither_offered_nor_taken(data, parent, monkeypatch):
    given = ["stage=instruction_tuning", f"init_from={parent}", f"data.path={data}/instructions", "stage.lora_rank=2"]
    with pytest.raises(UserError, match=r"stage.lora_quantization=nf4: is not for backbone=transformers; leave one"):
        validate(compose("train", [*COMMON, *given, "stage.lora_quantization=nf4"]))
    cfg = compose("train", [*COMMON, *given])
    offers = what_would_fit(shape_of(cfg), Pass(2, 32), 0.0, 0.0)
    assert offers and not any("quantization" in words for words, _ in offers)
    assert "quantization" not in needs_less(cfg) and "evaluation." not in needs_less(cfg)  # it is not evaluated
    cfg.evaluation.enabled = True
    assert "evaluation.batch_size=" in needs_less(cfg)
    monkeypatch.setattr("lit_llm.stages.initial_model.load_model", None)  # no weight is read
    with pytest.raises(UserError, match=r"lora_quantization=nf4: the model .falcon. is computed by transformers"):
        initial_model(str(parent), None, "language", FineTuningOptions(lora_rank=2, lora_quantization="nf4"))


@pytest.mark.parametrize("kind", [RewardModeling, FlagClassification])
@pytest.mark.parametrize("family", ["cohere", "mamba"])
def test_a_score_head_that_no_class_could_hold_is_refused_before_it_is_trained(kind, family, tmp_path):
    _, folder = folder_of(family, tmp_path)
    with pytest.raises(UserError, match=f"^family {family} has no reward model in transformers"):
        kind(model=load_model(folder))
