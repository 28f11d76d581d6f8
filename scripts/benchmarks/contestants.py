"""Who takes part: the model trained here and its peers, all as one thing, token ids and labels in, mean loss out.

Peers are imported only when asked for, from what is installed (transformers, litgpt) or pointed to (nanoGPT's folder).
All get the same width, depth, heads and vocabulary; all but nanoGPT (LayerNorm, GELU, learned positions) also the same
architecture and parameters: with the same weights they give the same loss.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_llm.backbone.config import BackboneConfig, from_depth
from lit_llm.backbone.models import LanguageModel
from lit_llm.errors import UserError
from lit_llm.objectives.language import cross_entropy


@dataclass(frozen=True)
class Shape:
    """The model and the batch, (batch, length) tokens a step."""

    hidden_size: int
    layers: int
    heads: int
    vocab_size: int
    length: int
    batch: int
    qk_norm: bool

    def config(self) -> BackboneConfig:
        return from_depth(
            self.vocab_size,
            self.layers,
            family="qwen3" if self.qk_norm else "llama",
            hidden_size=self.hidden_size,
            num_heads=self.heads,
            num_kv_heads=self.heads,
            head_dim=self.hidden_size // self.heads,
            max_positions=self.length,
            tie_embeddings=True,
        )


def parameters(config: BackboneConfig) -> int:
    """Of the model here, which the peers' have as many of."""
    with torch.device("meta"):
        return LanguageModel(config).num_parameters()


class Contestant(nn.Module):
    """A network whose ``forward(input_ids (B, T), labels (B, T))`` is the mean cross-entropy.

    ``here`` also takes the positions and segments of packed rows, (B, T) each.
    """

    def __init__(self, network: nn.Module, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network = network
        self.loss = loss

    def forward(self, input_ids: Tensor, labels: Tensor, *packing: Tensor) -> Tensor:
        return self.loss(self.network, input_ids, labels, *packing)

    def compile_network(self) -> None:
        """As the trainer does: in place, and the backbone alone where the network has one."""
        getattr(self.network, "backbone", self.network).compile()


Maker = Callable[[Shape], Contestant]

ATTENTIONS = ("sdpa", "eager")
PEERS = ("transformers", "litgpt")


def check_nanogpt(folder: Path) -> None:
    """Raises UserError where the folder is no checkout of nanoGPT."""
    if not (folder / "model.py").is_file():
        raise UserError(f"nanogpt={folder}: no model.py in it; point to a checkout of nanoGPT")


def asked(peers: str) -> tuple[str, ...]:
    """The names in ``peers``, with commas between; "installed" asks for all that there are."""
    names = tuple(name for name in peers.replace(" ", "").split(",") if name)
    return PEERS if names == ("installed",) else names


def find(peers: str, nanogpt: Path | None) -> Iterator[tuple[str, Maker]]:
    """(name, maker) of this project and of the wanted peers that are there.

    ``peers``: names with commas, or "installed"; transformers comes with each of its attentions that runs everywhere.
    Raises UserError for a peer that is unknown or not there.
    """
    yield "here", here
    known: dict[str, dict[str, Maker]] = {
        "transformers": {f"transformers {kind}": partial(transformers, kind) for kind in ATTENTIONS},
        "litgpt": {"litgpt": litgpt},
    }
    for name in asked(peers):
        if name not in known:
            raise UserError(f"peers={peers}: {name!r} is none; known are {', '.join(known)}, installed, or none at all")
        if importlib.util.find_spec(name) is not None:
            yield from known[name].items()
        elif peers.strip() != "installed":
            raise UserError(f"peers={peers}: {name} is not installed here (pip install {name})")
    if nanogpt is not None:
        check_nanogpt(nanogpt)
        yield "nanogpt", partial(nanogpt_at, nanogpt)


def here(shape: Shape) -> Contestant:
    """What pretraining runs: hidden states, then the loss straight from them."""

    def loss(model: nn.Module, input_ids: Tensor, labels: Tensor, *packing: Tensor) -> Tensor:
        result = cross_entropy(model(input_ids, *packing), model.output_weight, labels)  # type: ignore[arg-type]
        return result.loss / result.tokens

    return Contestant(LanguageModel(shape.config()), loss)


def transformers(attention: str, shape: Shape) -> Contestant:
    """Llama, or Qwen3 when there is QK-norm, with one of ``ATTENTIONS``; its own loss, which compiles with the rest."""
    import transformers as library

    config = shape.config()
    values: dict[str, Any] = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": shape.length,
        "rms_norm_eps": config.norm_eps,
        "attn_implementation": attention,
        "tie_word_embeddings": True,
        "use_cache": False,
    }
    if shape.qk_norm:
        network: nn.Module = library.Qwen3ForCausalLM(library.Qwen3Config(**values))
    else:
        network = library.LlamaForCausalLM(library.LlamaConfig(**values))
    return Contestant(network, lambda model, ids, labels: model(input_ids=ids, labels=labels, shift_labels=labels).loss)


def litgpt(shape: Shape) -> Contestant:
    """Its GPT with Llama's parts, the head tied to the embedding as everybody's, and its pretraining's own loss."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    config = Config(
        name="benchmark",
        block_size=shape.length,
        n_layer=shape.layers,
        n_embd=shape.hidden_size,
        n_head=shape.heads,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=shape.config().norm_eps,
        norm_qk=shape.qk_norm,
        mlp_class_name="LLaMAMLP",
        intermediate_size=shape.config().intermediate_size,
    )
    network = GPT(config)
    network.apply(network._init_weights)  # torch's own start of an embedding is far too large for a head
    network.lm_head.weight = network.transformer.wte.weight
    return Contestant(network, lambda model, ids, labels: chunked_cross_entropy(model(ids), labels))


def nanogpt_at(folder: Path, shape: Shape) -> Contestant:
    """GPT of ``folder``/model.py, without dropout and biases."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.GPTConfig(
        block_size=shape.length,
        vocab_size=shape.vocab_size,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.hidden_size,
        dropout=0.0,
        bias=False,
    )
    return Contestant(module.GPT(config), lambda model, ids, labels: model(ids, labels)[1])


def random_batch(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and labels, (batch, length) each: the same for every contestant."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocab_size, (shape.batch, shape.length + 1), generator=generator)
    return ids[:, :-1].contiguous().to(device), ids[:, 1:].contiguous().to(device)
