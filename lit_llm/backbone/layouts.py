"""How a family's files name and lay out its weights, and the way between them and the parameters here.

Names here are those of Llama's files with ``backbone.`` for ``model.``; most families differ in a few. Some files hold
several matrices as one ("fused"), some hold them as (in, out).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.family_table import Family
from lit_llm.backbone.transformers_config import TransformersConfig

HEAD, EMBEDDING = "lm_head.weight", "backbone.embed_tokens.weight"
OURS = "backbone."


@dataclass(frozen=True)
class Layout:
    prefix: str = "model."  # of all but the head
    layers: str = "layers."
    heads: Mapping[str, str] = field(default_factory=dict)  # modules beside the transformer, here to there
    outside: Mapping[str, str] = field(default_factory=dict)  # of the transformer, but of no layer
    inside: Mapping[str, str] = field(default_factory=dict)  # of each layer
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # modules of a layer there to those here
    by_head: bool = False  # q, k and v stand together head by head
    transposed: bool = False  # matrices of layers are (in, out)
    ignored: tuple[str, ...] = ()  # endings of tensors that some versions wrote and nobody needs

    def their_name(self, ours: str) -> str:
        """The name in the files of a parameter here, or of the tensor that holds it among others."""
        if not ours.startswith(OURS):
            return _renamed(ours, self.heads)
        rest = ours.removeprefix(OURS)
        if not rest.startswith("layers."):
            return self.prefix + _renamed(rest, self.outside)
        _, number, inner = rest.split(".", 2)
        return f"{self.prefix}{self.layers}{number}.{self.inside_name(inner)}"

    def inside_name(self, ours: str) -> str:
        """The same within a layer."""
        into = {part: whole for whole, parts in self.fused.items() for part in parts}
        return _renamed(ours, into | dict(self.inside))

    def in_files(self, tensors: Mapping[str, Tensor], config: BackboneConfig) -> dict[str, Tensor]:
        """Parameters by their names here, as the files have them."""
        parts = self.parts_of(tensors)
        return {name: self.laid_out(name, [tensors[ours] for ours in parts[name]], config) for name in parts}

    def parts_of(self, ours: Iterable[str]) -> dict[str, list[str]]:
        """Names in the files to the names here of what each tensor there is made of."""
        found: dict[str, list[str]] = {}
        for name in ours:
            found.setdefault(self.their_name(name), []).append(name)
        return found

    def from_files(
        self, tensors: dict[str, Tensor], shapes: Mapping[str, torch.Size], config: BackboneConfig
    ) -> dict[str, Tensor]:
        """The way back, which takes ``tensors`` away one by one. ``shapes``: of the parameters here."""
        found: dict[str, Tensor] = {}
        for theirs, names in self.parts_of(shapes).items():
            whole = tensors.pop(theirs)
            if self._turns(theirs, whole):
                whole = whole.t().contiguous()
            found |= zip(names, self.split(whole, [shapes[name][0] for name in names], config), strict=True)
        return found

    def laid_out(self, name: str, parts: list[Tensor], config: BackboneConfig) -> Tensor:
        """A tensor of the files, by its name there, from the parameters here that it is made of."""
        whole = self.join(parts, config)
        return whole.t() if self._turns(name, whole) else whole

    def _turns(self, name: str, tensor: Tensor) -> bool:
        return self.transposed and tensor.ndim == 2 and name.startswith(self.prefix + self.layers)

    def join(self, parts: list[Tensor], config: BackboneConfig) -> Tensor:
        """Matrices (out, in) or biases (out,) of one input as one; a single one as it is."""
        if len(parts) == 1:
            return parts[0]
        parts = [part.detach() for part in parts]
        if not self.by_head:
            return torch.cat(parts)
        heads = [part.view(config.num_heads, -1, *part.shape[1:]) for part in parts]
        return torch.cat(heads, dim=1).flatten(0, 1)

    def split(self, whole: Tensor, sizes: list[int], config: BackboneConfig) -> list[Tensor]:
        """The way back, each in memory of its own."""
        if len(sizes) == 1:
            return [whole]
        if not self.by_head:
            return [part.clone() for part in torch.split(whole, sizes)]
        heads = whole.view(config.num_heads, len(sizes), -1, *whole.shape[1:])
        return [heads[:, number].flatten(0, 1).contiguous() for number in range(len(sizes))]


def _renamed(path: str, names: Mapping[str, str]) -> str:
    """A module's path with its first parts replaced, where they are among ``names``."""
    for ours, theirs in names.items():
        if path == ours or path.startswith(ours + "."):
            return theirs + path[len(ours) :]
    return path


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OUTPUT_NORMS = {
    "attention_output_norm": "post_attention_layernorm",
    "post_attention_layernorm": "pre_feedforward_layernorm",
    "mlp_output_norm": "post_feedforward_layernorm",
}
PLAIN = Layout()
LAYOUTS: Mapping[Family, Layout] = {
    "gemma2": Layout(inside=OUTPUT_NORMS),
    "gemma3": Layout(inside=OUTPUT_NORMS),
    "olmo2": Layout(inside=OUTPUT_NORMS),
    "olmo3": Layout(inside=OUTPUT_NORMS),
    "phi3": Layout(
        fused={"self_attn.qkv_proj": QKV, "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj")},
    ),
    "gpt_neox": Layout(
        prefix="gpt_neox.",
        heads={"lm_head": "embed_out"},
        outside={"embed_tokens": "embed_in", "norm": "final_layer_norm"},
        inside={
            "self_attn.o_proj": "attention.dense",
            "mlp.up_proj": "mlp.dense_h_to_4h",
            "mlp.down_proj": "mlp.dense_4h_to_h",
        },
        fused={"attention.query_key_value": QKV},
        by_head=True,
        ignored=(".attention.bias", ".attention.masked_bias"),
    ),
    "gpt2": Layout(
        prefix="transformer.",
        layers="h.",
        outside={"embed_tokens": "wte", "embed_positions": "wpe", "norm": "ln_f"},
        inside={
            "input_layernorm": "ln_1",
            "post_attention_layernorm": "ln_2",
            "self_attn.o_proj": "attn.c_proj",
            "mlp.up_proj": "mlp.c_fc",
            "mlp.down_proj": "mlp.c_proj",
        },
        fused={"attn.c_attn": QKV},
        transposed=True,
        ignored=(".attn.bias", ".attn.masked_bias"),
    ),
}
"""Of those that differ from Llama's."""


def layout_of(config: BackboneConfig | TransformersConfig) -> Layout:
    if isinstance(config, TransformersConfig):  # whose network has the files' names
        return Layout(prefix=config.prefix, heads={"lm_head": config.head}, outside={"network": ""})
    return LAYOUTS.get(config.family, PLAIN)
