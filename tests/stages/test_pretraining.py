"""Pretraining, and what the language stages share: the loss, bits per byte, the model folder."""

import logging
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from lit_llm.backbone.huggingface import load_model
from lit_llm.errors import UserError
from lit_llm.optim.muon import muon_adamw
from lit_llm.records import IGNORE
from lit_llm.stages.language import token_sizes
from lit_llm.text.bpe import train_bpe
from tests.stages.training_run import Data, RandomRows, sgd, tiny_model, tiny_stage, trainer_for

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
TEXTS = ["the cat sat on the mat", "ein Fluß", "a cat, a mat"] * 5


def test_it_learns_its_rows(tmp_path: Path) -> None:
    stage = tiny_stage(optimizer=partial(muon_adamw, lr=0.02))
    trainer_for(tmp_path, [], max_steps=60, limit_val_batches=0, enable_checkpointing=False).fit(
        stage, datamodule=Data(4, 4)
    )
    assert stage.latest["train/loss"] < 0.3 < math.log(32)


def test_bits_per_byte_counts_the_bytes_of_trained_tokens() -> None:
    tokenizer = train_bpe(TEXTS, vocab_size=270)
    stage = tiny_stage(tiny_model(vocab_size=tokenizer.vocab_size), tokenizer=tokenizer).eval()
    ids = torch.tensor([[*tokenizer.encode("ein Fluß"), tokenizer.document_end_id]])
    labels = ids.clone()
    labels[0, 0] = IGNORE
    batch = (
        RandomRows(1)
        .collate([0])
        ._replace(
            input_ids=ids, labels=labels, positions=torch.arange(ids.shape[1])[None], segments=torch.zeros_like(ids)
        )
    )
    total, count, metrics = stage.loss(batch)
    size = len("ein Fluß".encode()) - len(tokenizer.token_bytes(int(ids[0, 0])))  # the end token is no text
    assert metrics["bytes"] == size and count == ids.shape[1] - 1
    sums = {"loss": float(total), "count": float(count), "nll": float(metrics["nll"]), "bytes": float(size)}
    assert stage.derived(sums)["bits_per_byte"] == pytest.approx(float(total) / math.log(2) / size)


def test_control_tokens_have_no_bytes() -> None:
    tokenizer = train_bpe(TEXTS, vocab_size=270)
    sizes = token_sizes(tokenizer)
    assert len(sizes) == tokenizer.vocab_size and sizes[tokenizer.turn_end_id] == 0
    assert sum(sizes[token] for token in tokenizer.encode("Fluß und mat")) == len("Fluß und mat".encode())


def test_the_z_loss_is_trained_but_not_shown() -> None:
    batch = RandomRows(4).collate(range(4))
    plain, with_z = tiny_stage().eval(), tiny_stage(z_loss=0.1).eval()
    with_z.load_state_dict(plain.state_dict())
    first, second = plain.loss(batch), with_z.loss(batch)
    assert second[0] > first[0] + 1e-3
    assert torch.equal(second[2]["nll"], first[2]["nll"])
    with pytest.raises(UserError, match=r"stage\.z_loss"):
        tiny_stage(z_loss=-1.0)


def test_the_saved_folder_loads(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, vocab_size=270)
    stage = tiny_stage(tiny_model(vocab_size=tokenizer.vocab_size), optimizer=sgd, tokenizer=tokenizer)
    stage.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    ids = torch.tensor([tokenizer.encode("the cat")])
    torch.testing.assert_close(loaded(ids), stage.model.eval()(ids))
    assert (tmp_path / "model" / "tokenizer.json").exists()
