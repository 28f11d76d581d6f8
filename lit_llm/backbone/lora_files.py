"""Adapters as PEFT names and lays them out, of families whose files hold several matrices as one too.

Adapters of q, k and v beside a fused qkv are one adapter there: A' = [A_q; A_k; A_v], and B' has B_q, B_k and B_v on
its diagonal, so that its rank is the sum of theirs (``rank_pattern``; ``alpha_pattern`` keeps the scale). One that PEFT
trained there, whose A all three share, is read as three with that A.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lit_llm.backbone.config import LINEAR_LAYERS, BackboneConfig
from lit_llm.backbone.layouts import layout_of

PEFT_PREFIX = "base_model.model."  # PEFT wraps the model twice
A, B, LENGTHS = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


def _inside(target: str) -> str:
    """A linear layer's path in its layer."""
    return ("mlp." if target in ("gate_proj", "up_proj", "down_proj") else "self_attn.") + target


def their_targets(targets: Iterable[str], config: BackboneConfig) -> list[str]:
    """The names for ``target_modules`` of layers that are called ``targets`` here."""
    layout = layout_of(config)
    if not layout.fused and not any(_inside(name) in layout.inside for name in LINEAR_LAYERS):
        return sorted(targets)
    return sorted({layout.inside_name(_inside(name)) for name in targets})


def patterns(
    targets: Iterable[str], config: BackboneConfig, rank: int, alpha: float, rank_stabilized: bool = False
) -> dict[str, dict[str, Any]]:
    """``rank_pattern`` and ``alpha_pattern``: of fused layers, ranks are as many times the others' as they have parts,
    and alphas so many times as keeps the scale."""
    fused, given = layout_of(config).fused, set(targets)
    sizes = {whole: len(parts) for whole, parts in fused.items() if given & {part.rpartition(".")[2] for part in parts}}
    return {
        "rank_pattern": {whole: size * rank for whole, size in sizes.items()},
        "alpha_pattern": {
            whole: (math.sqrt(size) if rank_stabilized else size) * alpha for whole, size in sizes.items()
        },
    }


def in_files(adapters: Mapping[str, Tensor], config: BackboneConfig, shared: bool = False) -> dict[str, Tensor]:
    """Tensors named ``....lora_A.weight`` (rank, in) and ``....lora_B.weight`` (out, rank) here, as PEFT has them.

    ``shared``: in the shapes that PEFT itself gives them, where the parts of a fused layer have one A.
    """
    layout, found = layout_of(config), dict[str, Tensor]()
    for module, names in _gathered(adapters, config).items():
        theirs = PEFT_PREFIX + layout.their_name(module)
        if len(names) == 1:
            found |= {theirs + end: adapters[names[0] + end] for end in (A, B, LENGTHS) if names[0] + end in adapters}
            continue
        sizes = _sizes(names, config)
        first = next(adapters[name + A] for name in names if name + A in adapters)
        rank, width = first.shape
        columns = 1 if shared else len(names)
        whole, rows = first.new_zeros(columns * rank, width), []
        for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
            part, block = first.new_zeros(size, columns * rank), slice(number * rank, (number + 1) * rank)
            if name + A in adapters and not shared:
                whole[block] = adapters[name + A].detach()
                part[:, block] = adapters[name + B].detach()
            rows.append(part)
        found[theirs + A], found[theirs + B] = whole, layout.join(rows, config)
        if any(name + LENGTHS in adapters for name in names):
            found[theirs + LENGTHS] = layout.join([adapters[name + LENGTHS].detach() for name in names], config)
    return found


@torch.no_grad()
def put_back(files: Mapping[str, Tensor], adapters: Mapping[str, Tensor], config: BackboneConfig, shared: bool) -> None:
    """Copies what was read into the adapters here; ``shared`` as ``in_files``."""
    layout = layout_of(config)
    for module, names in _gathered(adapters, config).items():
        theirs = PEFT_PREFIX + layout.their_name(module)
        whole, rows = files[theirs + A], [files[theirs + B]]
        if len(names) > 1:
            rows = layout.split(rows[0], _sizes(names, config), config)
        for number, (name, part) in enumerate(zip(names, rows, strict=True)):
            if name + A not in adapters:
                continue
            rank = adapters[name + A].shape[0]
            block = slice(0, rank) if shared or len(names) == 1 else slice(number * rank, (number + 1) * rank)
            if whole[block].any():  # else that part had no adapter: its new one stays as it begins
                adapters[name + A].copy_(whole[block])
            adapters[name + B].copy_(part[:, block])
        if theirs + LENGTHS in files:
            lengths = [files[theirs + LENGTHS]]
            lengths = layout.split(lengths[0], _sizes(names, config), config) if len(names) > 1 else lengths
            for name, part in zip(names, lengths, strict=True):
                adapters[name + LENGTHS].copy_(part)


def _gathered(adapters: Mapping[str, Tensor], config: BackboneConfig) -> dict[str, list[str]]:
    """A module of each tensor there, and all those here that it holds, with adapters or without."""
    layout, found = layout_of(config), dict[str, list[str]]()
    for name in adapters:
        module = name.removesuffix(A).removesuffix(B).removesuffix(LENGTHS)
        layer, inside = module.split(".", 3)[:3], module.split(".", 3)[3]
        parts = layout.fused.get(layout.inside_name(inside), (inside,))
        names = [".".join((*layer, part)) for part in parts]
        found[names[0]] = names
    return found


def _sizes(names: Sequence[str], config: BackboneConfig) -> list[int]:
    """Rows of each of these layers."""
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads, "v_proj": config.num_kv_heads}
    last = [name.rpartition(".")[2] for name in names]
    return [heads[name] * config.head_dim if name in heads else config.intermediate_size for name in last]
