"""What a pass of the whole model holds follows from passes over one and two layers and rows."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.lora import apply_lora
from lit_llm.training.plan.activations import _Live, _peaks, activations

CONFIG = from_depth(64, depth=5, hidden_size=64, max_positions=128)
# Of one or two layers, the embeddings' gradients are the peak; of all of them, what the layers keep.
MANY_WORDS = replace(from_depth(6000, depth=16, hidden_size=64, max_positions=128), tie_embeddings=True)
WAYS = {
    "full": {},
    "checkpointing": {"checkpointing": True},
    "adapters": {"prepare": partial(apply_lora, rank=2, dropout=0.0)},
    "bf16-mixed": {"autocast": torch.bfloat16},
    "bf16-true": {"dtype": torch.bfloat16},
}


def test_bytes_are_those_of_what_is_held():
    """1,000 numbers in and weights are known; two more are made: one is let go, and one is kept by autograd."""
    x, w = torch.ones(1000), torch.ones(1000, requires_grad=True)
    with _Live([x, w]) as watch:
        one = x + 1
        view = one.view(10, 100)
        assert watch.live == 4000
        product = one * w  # keeps both of its factors
        total = product.sum()
        assert watch.live == 8004
        del one, view, product
        assert watch.live == 4004, "autograd holds the first"
        del total
    assert (watch.live, watch.peak) == (0, 8004)


@pytest.mark.parametrize("config", [CONFIG, MANY_WORDS], ids=["few words", "many words"])
@pytest.mark.parametrize("way", WAYS)
def test_the_whole_model_holds_what_was_said_of_it(way, config):
    said = activations(config, 96, **WAYS[way]).of(config.num_layers, 6)
    settings = {"dtype": torch.float32, "autocast": None, "device": "cpu", "checkpointing": False}
    whole = max(
        _peaks(config, config.num_layers, 6, 96, **{**settings, "prepare": lambda _: None, **WAYS[way]}).values()
    )
    assert said == pytest.approx(whole, rel=0.05)


def test_recomputation_and_adapters_hold_less():
    full, again, adapted = (activations(CONFIG, 96, **WAYS[way]).of(5, 6) for way in list(WAYS)[:3])
    assert again < 0.6 * full and adapted < full


def test_the_most_rows_that_fit_are_the_most_that_fit():
    known = activations(CONFIG, 96)
    rows = known.rows_within(5, 3 * known.of(5, 4))
    assert known.of(5, rows) <= 3 * known.of(5, 4) < known.of(5, rows + 1)
    assert known.rows_within(5, 0) == 0


def test_the_random_state_of_torch_stays():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    activations(replace(CONFIG, num_layers=1), 8)
    assert torch.equal(torch.rand(2), wanted)
