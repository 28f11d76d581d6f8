"""Random weights of a network that is spread over processes: drawn one tensor after the other, as one process draws
them, of which each process keeps its part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.norm import LayerNorm, OffsetRMSNorm, RMSNorm
from lit_llm.runtime.shared_tensors import fill


def outline_of(config: BackboneConfig) -> LanguageModel:
    """``LanguageModel(config)`` with its weights on "meta", and the random state that ``draw_weights`` begins with."""
    with torch.device("meta"):
        model = LanguageModel(config)
    model.drawn_from = torch.random.get_rng_state()
    return model


@torch.no_grad()
def draw_weights(model: nn.Module, config: BackboneConfig, state: Tensor, names: Iterable[str]) -> None:
    """The parameters ``names`` of a network, which have memory and may be shared out, as ``LanguageModel(config)``
    draws them in float32 from this random state; the state of now stays."""
    parameters, wanted = dict(model.named_parameters()), set(names)
    for name in wanted:  # norms change nothing at first, biases are 0
        parameters[name].fill_(_begins(model, name))
    with torch.device("meta"):
        outline = LanguageModel(config)
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(state)
        for name, whole in _drawn(outline):
            if name in wanted:
                fill(parameters[name], whole)


def _drawn(outline: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """In the constructors' order: what torch's layers draw first is drawn again by ``initial``."""
    for module in outline.backbone.modules():
        _passed_over(module)
    for name, parameter, std in outline.backbone.initial():
        yield f"backbone.{name}", torch.empty(parameter.shape).normal_(std=std)
    _passed_over(outline.lm_head)
    head = torch.empty(outline.lm_head.out_features, outline.lm_head.in_features)
    yield "lm_head.weight", head.normal_(std=outline.config.initializer_range)


def _begins(model: nn.Module, name: str) -> float:
    owner, _, kind = name.rpartition(".")
    plain = isinstance(model.get_submodule(owner), RMSNorm | LayerNorm) and kind == "weight"
    return float(plain and not isinstance(model.get_submodule(owner), OffsetRMSNorm))


def _passed_over(module: nn.Module) -> None:
    """Draws what ``reset_parameters`` of a layer would."""
    if isinstance(module, nn.Embedding):
        torch.empty(module.weight.shape).normal_()
    elif isinstance(module, nn.Linear):
        torch.empty(module.weight.shape).uniform_()
        if module.bias is not None:
            torch.empty(module.bias.shape).uniform_()

