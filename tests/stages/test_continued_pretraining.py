"""Growing the vocabulary before a domain is learnt."""

from functools import partial

import lightning as L
import pytest
import torch

from lit_llm.backbone.new_rows import token_tables
from lit_llm.callbacks.checkpoints import Checkpoints
from lit_llm.checkpointing.resume import find_checkpoint
from lit_llm.errors import UserError
from lit_llm.optim.adamw import adamw
from lit_llm.optim.muon import muon_adamw
from lit_llm.optim.schedules import constant
from lit_llm.stages.continued_pretraining import ContinuedPretraining
from lit_llm.stages.options import ContinuedPretrainingOptions
from lit_llm.text.bpe import train_bpe
from tests.stages.training_run import VOCABULARY, Data, assert_same, sgd, state_of, tiny_model, trainer_for


def test_new_tokens_start_as_the_mean_of_the_old() -> None:
    tokenizer = train_bpe(["the cat sat on the mat"] * 5, vocab_size=262)
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    mean = model.output_weight.mean(0).clone()
    rows = tokenizer.vocab_size
    stage = ContinuedPretraining(
        ContinuedPretrainingOptions(new_tokens=["tensor", "<grad>"]),
        model=model,
        tokenizer=tokenizer,
        optimizer=sgd,
        schedule=constant,
    )
    assert tokenizer.vocab_size == model.config.vocab_size == len(stage.token_sizes) == rows + 3
    torch.testing.assert_close(model.output_weight[rows:], mean.expand(3, -1))
    assert stage.hparams["new_tokens"] == ["tensor", "<grad>"]


def test_rows_to_spare_are_kept() -> None:
    """Downloaded models have more rows than tokens: only what lacks is added."""
    tokenizer = train_bpe(["the cat sat on the mat"] * 5, vocab_size=262)
    model = tiny_model(vocab_size=300)
    old, before = tokenizer.vocab_size, model.output_weight.clone()
    ContinuedPretraining(
        ContinuedPretrainingOptions(new_tokens=["tensor"]),
        model=model,
        tokenizer=tokenizer,
        optimizer=sgd,
        schedule=constant,
    )
    assert model.config.vocab_size == 300
    for weight in (model.output_weight, model.backbone.embed_tokens.weight):
        torch.testing.assert_close(weight[old : old + 2], before[:old].mean(0).expand(2, -1))
    assert torch.equal(model.output_weight[old + 2 :], before[old + 2 :])


def test_an_empty_token_is_refused() -> None:
    tokenizer = train_bpe(["the cat sat on the mat"] * 5, vocab_size=262)
    with pytest.raises(UserError, match=r"stage\.new_tokens"):
        ContinuedPretraining(
            ContinuedPretrainingOptions(new_tokens=["a", ""]),
            model=tiny_model(),
            tokenizer=tokenizer,
            optimizer=sgd,
            schedule=constant,
        )


def trained(folder, steps, make, resume=False, **options):
    """On random rows, of tokens that are new in part: the tokenizer has fewer than the model."""
    L.seed_everything(1, verbose=False)
    stage = ContinuedPretraining(ContinuedPretrainingOptions(**options), model=tiny_model(), optimizer=make)
    stage.new_rows = list(range(VOCABULARY - 5, VOCABULARY))
    stage._train_new_rows()
    trainer = trainer_for(folder, [Checkpoints(every_n_steps=1, keep=1)], max_steps=steps, limit_val_batches=0)
    trainer.fit(stage, datamodule=Data(), ckpt_path=find_checkpoint(folder) if resume else None, weights_only=True)
    return trainer, stage


MAKERS = [partial(adamw, lr=1e-3), partial(muon_adamw, lr=1e-3)]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("rank", [0, 2])
def test_new_rows_learn_at_their_own_rate(make, rank, tmp_path):
    start = tiny_model()
    moved = {}
    for lr in (None, 6e-3):
        options = {"new_rows_lr": lr, **({"lora_rank": rank, "lora_dropout": 0.0} if rank else {})}
        _, stage = trained(tmp_path / str(lr), 1, make, **options)
        tables = zip(token_tables(stage.model), token_tables(start), strict=True)
        moved[lr] = [a.detach() - b.detach() for a, b in tables]
    for slow, fast in zip(moved[None], moved[6e-3], strict=True):
        torch.testing.assert_close(fast[:-5], slow[:-5])
        torch.testing.assert_close(fast[-5:], 6 * slow[-5:], rtol=1e-3, atol=1e-6)
        assert slow[-5:].abs().max() > 1e-4 and bool(slow[:-5].any()) == (not rank)


@pytest.mark.parametrize("make", MAKERS)
def test_a_resumed_run_is_bitwise_the_same(make, tmp_path):
    whole = state_of(*trained(tmp_path / "whole", 4, make, new_rows_lr=6e-3))
    trained(tmp_path / "parts", 2, make, new_rows_lr=6e-3)
    assert_same(state_of(*trained(tmp_path / "parts", 4, make, resume=True, new_rows_lr=6e-3)), whole)
