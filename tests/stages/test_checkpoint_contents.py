"""Invariant: a checkpoint says what network it is of, one written before a setting existed too."""

import dataclasses
import io

import pytest
import torch

from lit_llm.backbone.config import BackboneConfig, RopeScaling, from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.stages.checkpoint_contents import contents, network_of

WINDOWED = BackboneConfig(
    family="olmo3",
    vocab_size=50,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=40,
    max_positions=64,
    sliding_window=5,
    norm_placement="after",
    qk_norm_whole=True,
    windowed_layers=(True, False),
    rope_scaling=RopeScaling("yarn", 4.0, original_max_positions=16),
    window_rope_theta=1e4,
    window_rope_scaling=RopeScaling("linear", 2.0),
)
SCALED = from_depth(50, 2, hidden_size=32, family="llama", rope_scaling=RopeScaling("llama3", 4.0))


def stored(config):
    """What a checkpoint of a network keeps of it, written and read as Lightning does."""
    file = io.BytesIO()
    torch.save({"components": contents(LanguageModel(config), None)}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("config", [WINDOWED, SCALED, from_depth(50, 2, hidden_size=32)])
def test_the_network_is_made_again(config):
    assert network_of(stored(config), "file").config == config


@pytest.mark.parametrize("config", [SCALED, from_depth(50, 2, hidden_size=32)])
def test_settings_that_a_checkpoint_does_not_know_are_those_it_had(config):
    checkpoint = stored(config)
    values = checkpoint["components"]["backbone"]
    names = [field.name for field in dataclasses.fields(BackboneConfig)]
    for name in names[names.index("norm") :]:
        del values[name]
    if values["rope_scaling"]:
        before = ("kind", "factor", "low_freq_factor", "high_freq_factor", "original_max_positions")
        values["rope_scaling"] = {name: values["rope_scaling"][name] for name in before}
    assert network_of(checkpoint, "file").config == config
