"""What a stage starts from: a network and its tokenizer, or the folder of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import nn

from lit_llm.backbone.adapter_folder import load_start
from lit_llm.backbone.huggingface import check_vocabulary
from lit_llm.backbone.models import LanguageModel
from lit_llm.backbone.quantized import quantize
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
    if isinstance(model, str | Path):
        network = load_start(model, head, bool(getattr(options, "lora_rank", 0)))
        tokenizer = load_tokenizer(model) if tokenizer is None else tokenizer
        check_vocabulary(network.config, tokenizer.vocab_size, model)
    if isinstance(options, AdapterOptions) and options.lora_quantization:
        if isinstance(network.config, TransformersConfig):
            raise UserError("stage.lora_quantization=nf4: is not for backbone=transformers; leave one out")
        quantize(network)
    return network, tokenizer
