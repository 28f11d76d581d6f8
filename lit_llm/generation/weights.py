"""A model's weights laid out for generation: fewer and larger products, nothing that only training needs.

What each layer's plain forward does in several passes over the hidden states is put into its weights once: the norms'
scales, adapters, the attention's 1/sqrt(head_dim); and the rows of the query and key products are reordered so that the
two numbers that rotary embedding turns stand side by side, which makes a turn one complex product. The logits stay the
same up to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_llm.backbone.blocks import MLP, Attention, Experts
from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.lora import LoRALinear
from lit_llm.backbone.quantized import whole
from lit_llm.runtime import processor

Affine = tuple[Tensor, Tensor | None]  # weight (out, in), bias (out,); or a norm's, (in,) each


class Product:
    """x W' + b.

    Where it pays the weight is kept in the order that oneDNN multiplies it in, as torch.compile keeps frozen weights:
    else each call brings it into that order anew. On a CPU in bfloat16 (768 x 4096, one AVX512-BF16 core, microseconds
    with 1, 8 and 64 rows: 264, 425 and 2,440 against 112, 261 and 1,876), and with AVX2 in float32 for more than one
    row; for one it lies as (in, out) in memory (all products of six layers, width 384, one core, milliseconds with 1,
    2, 8 and 32 rows: 4.3, 6.9, 7.5 and 15.1 as they are, 3.9, 3.8, 6.1 and 12.2 packed, 3.4, 4.6, 7.7 and 14.8 turned).

    Args:
        rows: how many x has as a rule.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, rows: int = 1) -> None:
        self.weight = weight.to(dtype).contiguous()
        self.bias = None if bias is None else bias.to(dtype)
        self.packed = _pays(self.weight, rows)
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)
        elif rows == 1 and _is_narrow(self.weight):
            self.weight = self.weight.t().contiguous().t()

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return out
        return F.linear(x, self.weight, self.bias)


def _pays(weight: Tensor, rows: int) -> bool:
    """Whether packed is faster, and this torch has oneDNN and the operators that inductor gives its packed weights to.

    oneDNN's float32 takes three times as long for what does not fill its vectors, such as 65 words.
    """
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.enabled or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    if weight.dtype == torch.float32:
        return rows > 1 and len(weight) % 16 == 0 and _is_narrow(weight)
    return weight.is_cpu and weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _is_narrow(weight: Tensor) -> bool:
    return weight.is_cpu and weight.dtype == torch.float32 and processor.has_narrow_vectors()


class MLPWeights(NamedTuple):
    """``gate_up``: gate and up side by side where the MLP is gated, else up alone."""

    gate_up: Product
    down: Product


class ExpertWeights(NamedTuple):
    router: Product
    experts: list[MLPWeights]


class LayerWeights(NamedTuple):
    """One layer's products, with all that scales their input or output. ``scales``: (H + H_kv, head_dim) of the norms
    of queries and keys, None without them. ``after``: what the normed outputs of attention and MLP are multiplied by,
    each (D,), None where they have no norms."""

    qkv: Product
    out: Product
    mlp: MLPWeights | ExpertWeights
    scales: Tensor | None
    after: tuple[Tensor, Tensor] | None


def layer_weights(
    block: nn.Module, config: BackboneConfig, layer: int, dtype: torch.dtype, wide: torch.dtype, rows: int = 1
) -> LayerWeights:
    """``dtype``: of the products; ``wide``: of all between them; ``rows``: decoded at once, as a rule."""
    attention: Attention = block.self_attn  # type: ignore[assignment]
    first, second = _affine(block.input_layernorm, wide), _affine(block.post_attention_layernorm, wide)
    order = _pairs(config).to(attention.q_proj.weight.device)
    shrink = config.head_dim**-0.5 * (config.query_scale(layer) or 1.0)
    normed = attention.q_norm is not None and attention.k_norm is not None
    queries = _turned(*_plain(attention.q_proj, wide), order, 1.0 if normed else shrink)
    keys = _turned(*_plain(attention.k_proj, wide), order, 1.0)
    joined = _behind(_joined([queries, keys, _plain(attention.v_proj, wide)]), first)
    scales = None
    if attention.q_norm is not None and attention.k_norm is not None:
        q, k = attention.q_norm.affine()[0].to(wide), attention.k_norm.affine()[0].to(wide)
        q, k = q.view(-1, config.head_dim)[:, order] * shrink, k.view(-1, config.head_dim)[:, order]
        scales = torch.cat([q.expand(config.num_heads, -1), k.expand(config.num_kv_heads, -1)])
    after, scale = None, config.residual_scale
    if config.norm_placement != "before":
        norms = (block.attention_output_norm, block.mlp_output_norm)
        one, two = (_affine(norm, wide)[0] * scale for norm in norms)
        after, scale = (one, two), 1.0
    return LayerWeights(
        Product(*joined, dtype, rows),
        Product(*_times(_plain(attention.o_proj, wide), scale), dtype, rows),
        _mlp_weights(block.mlp, second, scale, dtype, wide, rows),  # type: ignore[arg-type]
        scales,
        after,
    )


def _mlp_weights(
    mlp: nn.Module, norm: Affine, scale: float, dtype: torch.dtype, wide: torch.dtype, rows: int
) -> MLPWeights | ExpertWeights:
    if isinstance(mlp, Experts):
        experts = [_mlp_weights(each, norm, scale, dtype, wide, rows) for each in mlp.experts]
        router = Product(*_behind(_plain(mlp.gate, wide), norm), dtype, rows)
        return ExpertWeights(router, experts)  # type: ignore[arg-type]
    parts = [mlp.gate_proj, mlp.up_proj] if isinstance(mlp, MLP) else [mlp.up_proj]
    gate_up = _behind(_joined([_plain(part, wide) for part in parts]), norm)  # type: ignore[arg-type]
    down = _times(_plain(mlp.down_proj, wide), scale)  # type: ignore[arg-type]
    return MLPWeights(Product(*gate_up, dtype, rows), Product(*down, dtype, rows))


def _plain(layer: nn.Linear, wide: torch.dtype) -> Affine:
    """A layer's weight and bias, its adapter (where there is one now) added in."""
    adapted = isinstance(layer, LoRALinear) and not layer.is_base
    weight = layer.whole_weight(wide) if adapted else whole(layer.weight, wide)  # type: ignore[operator]
    return weight.detach(), None if layer.bias is None else layer.bias.detach().to(wide)


def _affine(norm: object, wide: torch.dtype) -> Affine:
    """What a norm multiplies by and adds; 1 where there is none."""
    if norm is None:
        return torch.ones(()), None
    weight, bias = norm.affine()  # type: ignore[attr-defined]
    return weight.to(wide), None if bias is None else bias.to(wide)


def _behind(layer: Affine, norm: Affine) -> Affine:
    """A layer that takes what a norm has only divided: its weight and bias are put into the layer's."""
    (weight, bias), (scale, offset) = layer, norm
    if offset is not None:
        moved = weight @ offset
        bias = moved if bias is None else bias + moved
    return weight * scale.to(weight.device), bias


def _times(layer: Affine, factor: float) -> Affine:
    weight, bias = layer
    if factor == 1.0:
        return layer
    return weight * factor, None if bias is None else bias * factor


def _pairs(config: BackboneConfig) -> Tensor:
    """Hugging Face's layout turns (i, i + rotary_dim / 2) together; here they are neighbours."""
    turned = torch.arange(config.rotary_dim).view(2, -1).t().flatten()
    return torch.cat([turned, torch.arange(config.rotary_dim, config.head_dim)])


def _turned(weight: Tensor, bias: Tensor | None, order: Tensor, factor: float) -> Affine:
    """The rows of every head in ``order`` (head_dim,), times ``factor``."""
    heads = weight.view(-1, len(order), weight.shape[1])[:, order].flatten(0, 1) * factor
    return heads, None if bias is None else bias.view(-1, len(order))[:, order].flatten() * factor


def _joined(parts: list[Affine]) -> Affine:
    """Several layers of one input as one."""
    biases = [bias for _, bias in parts if bias is not None]
    return torch.cat([weight for weight, _ in parts]), torch.cat(biases) if biases else None
