"""What a stage starts from: a network and its tokenizer, or the folder of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import nn

from lit_llm.backbone.huggingface import check_vocabulary, load_config, load_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.quantized import dequantize, has_quantized, quantize
from lit_llm.backbone.transformers_config import TransformersConfig
from lit_llm.errors import UserError
from lit_llm.stages.options import AdapterOptions, StageOptions
from lit_llm.text.tokenizer import load_tokenizer

Network = nn.Module | str | Path
Policy = LanguageModel | str | Path
"""A language model, or the folder of one."""


def initial_model(
    model: Network, tokenizer: Any, head: Literal["language", "score"], options: StageOptions
) -> tuple[Any, Any]:
    """The network and its tokenizer: as they are given, or read where ``model`` is a model folder, which must have
    this ``head``. A tokenizer that is given is taken in place of the folder's. Of an adapter's folder it comes with the
    adapter beside its layers where the stage of ``options`` trains adapters, else merged.

    Where ``options`` ask for it, the weights that adapters are to stand beside are kept in 4 bits from here on, in
    place: before any copy of the network is made.

    Raises UserError for a folder that is missing or damaged, another head, or a vocabulary that the embedding has too
    few rows for.
    """
    network: Any = model
    quantized = isinstance(options, AdapterOptions) and bool(options.lora_quantization)
    if quantized:  # before weights are read
        _refuse_other_layers(load_config(model) if isinstance(model, str | Path) else getattr(model, "config", None))
    if isinstance(model, str | Path):
        network = load_model(model, head, keep_adapter=bool(getattr(options, "lora_rank", 0)))
        tokenizer = load_tokenizer(model) if tokenizer is None else tokenizer
        check_vocabulary(network.config, tokenizer.vocab_size, model)
    if quantized:
        quantize(network)
    elif has_quantized(network):  # an adapter of QLoRA's: what the 4 bits stand for
        dequantize(network, network.backbone.embed_tokens.weight.dtype)
    return network, tokenizer


def _refuse_other_layers(config: Any) -> None:
    if isinstance(config, TransformersConfig):
        raise UserError(
            f"stage.lora_quantization=nf4: the model ({config.family}) is computed by transformers, whose layers are "
            "not kept in 4 bits here; leave it out"
        )
