"""What a module and its optimizers hold, taken apart for a sharded checkpoint: tensors by the names of the parameters
that they belong to, and the plain rest. Names stay what they are when parameters are split among other processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_llm.errors import UserError
from lit_llm.runtime.shared_tensors import local, shared_as, whole


class Collected(NamedTuple):
    """A checkpoint's content: ``tensors`` by name, which may be sharded; ``held``, by the same names, what this process
    writes of them; ``rest``, plain values and small tensors."""

    tensors: dict[str, Tensor]
    held: dict[str, Tensor]
    rest: dict[str, Any]


def weight_key(name: str) -> str:
    return f"state_dict.{name}"


def optimizer_key(number: int, name: str, entry: str) -> str:
    return f"optimizer_{number}.{name}.{entry}"


def collect(checkpoint: Mapping[str, Any], module: nn.Module) -> Collected:
    """Take a checkpoint apart, as Lightning's ``dump_checkpoint`` makes it; its optimizer states with ``names_in``."""
    rest = dict(checkpoint)
    weights: dict[str, Tensor] = rest.pop("state_dict")
    aliases = tied_names(module, weights)
    tensors = {weight_key(name): tensor for name, tensor in weights.items() if name not in aliases}
    rest |= {"weights": [name for name in weights if name not in aliases], "aliases": aliases}
    if "optimizer_states" in rest:
        told = []
        for number, state in enumerate(rest["optimizer_states"]):
            names, plain, sharded = state["names"], {}, {}
            for index, values in state["state"].items():
                large = {entry: value for entry, value in values.items() if isinstance(value, Tensor) and value.ndim}
                tensors |= {optimizer_key(number, names[index], entry): value for entry, value in large.items()}
                small = {entry: value for entry, value in values.items() if entry not in large}  # such as a count
                plain[index] = {
                    entry: whole(value) if isinstance(value, Tensor) else value for entry, value in small.items()
                }
                sharded[index] = list(large)
            told.append({"names": names, "param_groups": state["param_groups"], "state": plain, "tensors": sharded})
        rest["optimizer_states"] = told
    return Collected(tensors, {name: local(tensor.detach()) for name, tensor in tensors.items()}, rest)


def tied_names(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of weights that are the same parameter as one named before, to that one's name."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name in weights and (before := first.setdefault(id(parameter), name)) != name:
            found[name] = before
    return found


def names_in(optimizer: Optimizer, module: nn.Module) -> list[str]:
    """The names of an optimizer's parameters, in the order in which its state numbers them."""
    known = {id(parameter): name for name, parameter in module.named_parameters()}
    return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def renumbered(state: Mapping[str, Any], optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """An optimizer's state as this one numbers its parameters, where the state knows their names.

    Raises UserError where its groups hold other parameters: their rates and decays would be another's.
    """
    if "names" not in state:
        return dict(state)
    names, now = state["names"], names_in(optimizer, module)
    before = [sorted(names[index] for index in group["params"]) for group in state["param_groups"]]
    current, start = [], 0
    for group in optimizer.param_groups:
        current.append(sorted(now[start : start + len(group["params"])]))
        start += len(group["params"])
    if before != current:
        changed = sorted(set(names) ^ set(now)) or sorted(now)
        raise UserError(
            f"resume: the optimizer groups other parameters than the checkpoint's, such as {changed[0]}: resume with "
            "the optimizer and the trained parameters of that run"
        )
    number = {name: index for index, name in enumerate(now)}
    groups, start = [], 0
    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        groups.append({**saved, "params": list(range(start, start + len(group["params"])))})
        start += len(group["params"])
    return {
        "state": {number[names[index]]: values for index, values in state["state"].items()},
        "param_groups": groups,
    }


def split(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's state, which every process has whole, with the parts held here of what is sharded."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        "state": {
            index: {entry: _part(value, parameters[index]) for entry, value in values.items()}
            for index, values in state["state"].items()
        },
        "param_groups": state["param_groups"],
    }


def _part(value: Any, parameter: Tensor) -> Any:
    same = isinstance(value, torch.Tensor) and value.shape == parameter.shape
    return shared_as(value, parameter) if same else value
