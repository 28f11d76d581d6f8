"""Growing the vocabulary before a domain is learnt."""

import pytest
import torch

from lit_llm.errors import UserError
from lit_llm.optim.schedules import constant
from lit_llm.stages.continued_pretraining import ContinuedPretraining
from lit_llm.stages.options import ContinuedPretrainingOptions
from lit_llm.text.bpe import train_bpe
from tests.stages.training_run import sgd, tiny_model


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
