"""Which models several processes can compute together, layer by layer (``tensor_parallel``): the shape alone tells,
before torch is imported."""

from __future__ import annotations

from collections.abc import Iterator

from lit_llm.backbone.config import BackboneConfig


def faults(config: BackboneConfig, peers: int) -> Iterator[str]:
    """A line for each reason why a model of this shape cannot be cut into so many parts. A vocabulary that cannot be
    shared out evenly is held whole by each process."""
    for name, key, number in (
        ("heads", "num_heads", config.num_heads), ("key heads", "num_kv_heads", config.num_kv_heads),
        ("units of the MLP", "intermediate_size", config.intermediate_size),
    ):  # fmt: skip
        if number % peers:
            yield (
                f"the model has {number} {name} (backbone.{key}), which {peers} processes cannot share; give "
                f"{_instead(config, peers)}trainer=fsdp"
            )
    if config.num_experts:
        yield "experts are not cut; give trainer=fsdp"
    if config.qk_norm and config.qk_norm_whole:
        yield f"{config.family} norms all heads of a token together; give trainer=fsdp"


def _instead(config: BackboneConfig, peers: int) -> str:
    sizes = (config.num_heads, config.num_kv_heads, config.intermediate_size)
    fits = [count for count in range(2, peers) if not any(size % count for size in sizes)]
    return f"trainer.tensor_parallel={fits[-1]}, or " if fits else ""
