"""What a run that spreads its model over processes (``trainer=fsdp``, ``trainer=tp``) cannot be given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lit_llm.backbone.options import TransformersOptions
from lit_llm.config.schema import SHARDS
from lit_llm.runtime import devices
from lit_llm.runtime.started_by import started


def faults(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    """A line for each key of a run's plain configuration that does not go with a model spread over processes."""
    path, trainer = f"{prefix}trainer.", values["trainer"]
    if str(trainer["strategy"]).startswith("fsdp"):
        yield (
            f"{path}strategy={trainer['strategy']}: is torch's first FSDP, under which each process would clip its "
            "part of the gradient by a norm of its own; give trainer=fsdp"
        )
    if trainer["shard"] not in SHARDS:
        yield f"{path}shard={trainer['shard']}: must be one of {', '.join(str(one or 'null') for one in SHARDS)}"
    if not devices.is_sharded(trainer):
        return
    said = f"{path}tensor_parallel={trainer['tensor_parallel']}" if trainer["shard"] is None else (
        f"{path}shard={trainer['shard']}"
    )  # fmt: skip
    if trainer["strategy"] not in ("auto", "fsdp"):
        yield f"{path}strategy={trainer['strategy']}: has each process hold the whole model; leave it out beside {said}"
    if trainer["precision"] == "16-mixed":
        yield f"{path}precision=16-mixed: has no loss scale beside {said}; give {path}precision=bf16-mixed or 32-true"
    if trainer["accelerator"] in ("mps", "tpu"):
        yield f"{path}accelerator={trainer['accelerator']}: is no place for {said}; give trainer=ddp"
    yield from _mesh_faults(path, trainer)
    yield from _stage_faults(prefix, values, said)
    if trainer["tensor_parallel"] > 1:
        yield from _tensor_faults(prefix, values)


def _mesh_faults(path: str, trainer: Mapping[str, Any]) -> Iterator[str]:
    here, nodes, tensor = devices.count(trainer), trainer["num_nodes"], trainer["tensor_parallel"]
    if here % tensor:
        less = next(count for count in range(min(here, tensor), 0, -1) if here % count == 0)
        instead = f"{path}tensor_parallel={less}" if less > 1 else "trainer=fsdp"
        yield (
            f"{path}tensor_parallel={tensor}: must divide the {here} devices of a machine; "
            f"give {_devices_by(path, -(-here // tensor) * tensor)}, or {instead}"
        )
    if trainer["shard"] == "hybrid" and nodes < 2:
        yield (
            f"{path}shard=hybrid: repeats the model over machines and shares it out within each; give "
            f"{path}num_nodes=2 or more, or {path}shard=full"
        )


def _devices_by(path: str, count: int) -> str:
    """How a command is told to run on so many devices of a machine, by whoever starts its processes."""
    now = started()
    if now.by == "python" or now.here == 1:
        return f"{path}devices={count}"
    flag = "--nproc-per-node" if now.by == "torchrun" else "--ntasks-per-node"
    return f"{now.by} {flag}={count} and {path}devices=auto"


def _stage_faults(prefix: str, values: Mapping[str, Any], said: str) -> Iterator[str]:
    stage, backbone = (values[key] if isinstance(values[key], Mapping) else {} for key in ("stage", "backbone"))
    if backbone.get("_target_") == TransformersOptions.TARGET:
        yield f"{prefix}backbone=transformers: its layers are not shared out with {said}; give trainer=ddp"
    if stage.get("lora_quantization") and stage.get("lora_rank") != 0:
        yield (
            f"{prefix}stage.lora_quantization={stage['lora_quantization']}: weights in 4 bits are not shared out with "
            f"{said}; give trainer=ddp, or leave it out"
        )
    if stage.get("new_tokens") and stage.get("lora_rank"):
        yield (
            f"{prefix}stage.new_tokens: their rows alone are trained beside adapters, and with {said} rows lie in "
            f"several processes; give {prefix}stage.lora_rank=0, or trainer=ddp"
        )


def _tensor_faults(prefix: str, values: Mapping[str, Any]) -> Iterator[str]:
    stage, backbone = (values[key] if isinstance(values[key], Mapping) else {} for key in ("stage", "backbone"))
    said = f"{prefix}trainer.tensor_parallel={values['trainer']['tensor_parallel']}"
    if backbone.get("dropout"):
        yield (
            f"{prefix}backbone.dropout={backbone['dropout']}: the processes of a group would draw the same for other "
            f"tokens with {said}; give {prefix}backbone.dropout=0, or trainer=fsdp"
        )
    if stage.get("neftune_noise_alpha"):
        yield (
            f"{prefix}stage.neftune_noise_alpha={stage['neftune_noise_alpha']}: the processes of a group would draw "
            f"the same for other tokens with {said}; leave it out, or give trainer=fsdp"
        )
