"""Texts written while training: in TensorBoard, and without a trace in the weights."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_llm.backbone.models import ScoreModel
from lit_llm.callbacks.samples import Samples, prompts_of
from lit_llm.config.command_line import compose
from lit_llm.config.targets import construct
from lit_llm.data.data_module import DataModule
from lit_llm.errors import UserError
from lit_llm.stages.pretraining import Pretraining
from lit_llm.text.bpe import train_bpe
from lit_llm.text.tokenizer import Tokenizer
from tests.stages.training_run import Data, sgd, tiny_model, tiny_stage, trainer_for

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
    samples = Samples(prompts=["the cat <b>", "on"], every_n_steps=2, max_new_tokens=4)
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
    found = []
    for chat in (False, True):
        samples = Samples(prompts=["the cat"], max_new_tokens=6, chat=chat)
        found.append(samples.texts(model, tokenizer, samples.encoded(tokenizer)))
    plain, chat_text = found
    assert len(plain) == len(chat_text) == 1 and plain != chat_text


ARABIC = [
    f"{n} \u0643\u062a\u0628 \u0627\u0644\u0648\u0644\u062f \u0631\u0633\u0627\u0644\u0629" for n in range(10, 50)
]


def data_of(kind: str, folder: Path, tokenizer: Tokenizer) -> DataModule:
    rows: dict[str, list[dict[str, Any]]] = {
        "raw_text": [{"text": text * 3} for text in ARABIC],
        "instructions": [{"prompt": text, "completion": "x"} for text in ARABIC],
        "prompts": [{"prompt": text} for text in ARABIC],
        "preferences": [{"prompt": text, "chosen": "x", "rejected": "y"} for text in ARABIC],
        "labelled_answers": [{"prompt": text, "completion": "x", "label": n % 2 == 0} for n, text in enumerate(ARABIC)],
    }
    file = folder / f"{kind}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[kind]), encoding="utf-8")
    words = ["stage=pretraining", f"data={kind}", f"data.path={file}", "data.validation_fraction=0.2"]
    node = compose("train", [*words, f"data.cache_dir={folder}/cache"]).data
    data: DataModule = construct(node, "data")(tokenizer=tokenizer)
    return data


@pytest.mark.parametrize("kind", ["raw_text", "instructions", "prompts", "preferences", "labelled_answers"])
def test_prompts_are_those_of_the_data_at_hand(kind: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = data_of(kind, tmp_path, tokenizer)
    found = [tokenizer.decode(row) for row in prompts_of(data, 3)]
    assert len(found) == len(set(found)) >= 2
    if kind == "raw_text":
        assert all(one and any(text.startswith(one.strip().rstrip("\ufffd")) for text in ARABIC) for one in found)
    else:  # the whole question, and nothing of the answer
        assert all(any(text in one for text in ARABIC) and "x" not in one.splitlines()[-1] for one in found)


def test_a_stage_without_data_of_its_own_samples_nothing(tmp_path: Path, tokenizer: Tokenizer) -> None:
    fit(tmp_path, tokenizer, [Samples(every_n_steps=2, max_new_tokens=4)])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert "samples/text_summary" not in events.Tags()["tensors"]


@pytest.mark.parametrize(
    ("values", "key"), [({"prompts": []}, "prompts"), ({"every_n_steps": 0}, "every_n_steps"), ({"count": 0}, "count")]
)
def test_bad_values_are_named(values: dict, key: str) -> None:
    with pytest.raises(UserError, match=f"callbacks.samples.{key}"):
        Samples(**values)


def test_what_cannot_be_sampled_is_said_before_the_first_step(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="max_new_tokens: 32; the context has 32 positions"):
        fit(tmp_path, tokenizer, [Samples(max_new_tokens=32, every_n_steps=None)])
    stage = tiny_stage(tiny_model())
    stage.model = ScoreModel.from_language_model(tiny_model())
    with pytest.raises(UserError, match=r"callbacks\.samples: this stage's model gives scores, no words"):
        Samples().setup(trainer_for(tmp_path, []), stage, "fit")
