"""Texts written while training: in TensorBoard, and without a trace in the weights."""

import logging
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_run import Data, sgd, tiny_model, tiny_stage, trainer_for

from lit_llm.callbacks.samples import Samples
from lit_llm.errors import UserError
from lit_llm.stages.pretraining import Pretraining
from lit_llm.text.bpe import train_bpe
from lit_llm.text.tokenizer import Tokenizer

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["the cat sat on the mat"] * 5, vocab_size=262)


def fit(folder: Path, tokenizer: Tokenizer, samples: list[Samples]) -> Pretraining:
    stage = tiny_stage(tiny_model(0.3, vocab_size=tokenizer.vocab_size), optimizer=sgd, tokenizer=tokenizer)
    logger = TensorBoardLogger(folder, name="", version="tensorboard")
    trainer = trainer_for(folder, samples, max_steps=5, limit_val_batches=0, logger=logger, enable_checkpointing=False)
    torch.manual_seed(0)
    trainer.fit(stage, datamodule=Data())
    return stage


def test_samples_are_logged_and_change_nothing(tmp_path: Path, tokenizer: Tokenizer) -> None:
    samples = Samples(["the cat <b>", "on"], every_n_steps=2, max_new_tokens=4)
    stage = fit(tmp_path / "with", tokenizer, [samples])
    events = EventAccumulator(str(tmp_path / "with" / "tensorboard"))
    events.Reload()
    logged = events.Tensors("samples/text_summary")
    assert [event.step for event in logged] == [2, 4, 5]
    text = logged[-1].tensor_proto.string_val[0].decode()
    assert text.startswith("**the cat &lt;b>** ")
    assert stage.model.training
    without = fit(tmp_path / "without", tokenizer, [])
    assert torch.equal(stage.model.output_weight, without.model.output_weight)


def test_chat_goes_through_the_template(tokenizer: Tokenizer) -> None:
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    plain = Samples(["the cat"], max_new_tokens=6).texts(model, tokenizer)
    chat = Samples(["the cat"], max_new_tokens=6, chat=True).texts(model, tokenizer)
    assert len(plain) == len(chat) == 1 and plain != chat


@pytest.mark.parametrize(
    ("values", "key"), [({"prompts": []}, "prompts"), ({"prompts": ["a"], "every_n_steps": 0}, "every_n_steps")]
)
def test_bad_values_are_named(values: dict, key: str) -> None:
    with pytest.raises(UserError, match=f"callbacks.samples.{key}"):
        Samples(**values)


def test_more_new_tokens_than_the_context_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="max_new_tokens: 32; the context has 32 positions"):
        Samples(["the cat"], max_new_tokens=32).texts(tiny_model(vocab_size=tokenizer.vocab_size), tokenizer)
