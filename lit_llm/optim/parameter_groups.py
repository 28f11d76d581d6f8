"""Which parameters decay, and which are hidden matrices that Muon orthogonalises."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

HEADS = frozenset({"lm_head", "score"})
"""Names of modules whose matrix maps to an output: not a hidden matrix, whatever its shape."""


ROWS = "trained_rows"
"""An attribute of a matrix or vector of which some rows alone are trained, their numbers (R,): decay would move the
others too, and moments are kept of these."""


class ParameterGroups(NamedTuple):
    """A module's trainable parameters, each in exactly one list, in the module's order."""

    hidden: list[nn.Parameter]  # matrices of linear layers between the embedding and the head
    decayed: list[nn.Parameter]  # other matrices: an untied head
    undecayed: list[nn.Parameter]  # embeddings (tied heads with them), norms, biases, matrices trained by rows


def trained_numbers(parameter: nn.Parameter) -> int:
    """How many of a parameter's numbers training changes."""
    rows = getattr(parameter, ROWS, None)
    return parameter.numel() if rows is None else len(rows) * parameter[0].numel()


def parameter_groups(module: nn.Module) -> ParameterGroups:
    """Sorts the trainable parameters; frozen ones are left out, shared ones counted where they come first."""
    groups = ParameterGroups([], [], [])
    embeddings = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2 or id(parameter) in embeddings or hasattr(parameter, ROWS):
            groups.undecayed.append(parameter)
        elif parameter.ndim > 2 or HEADS & set(name.split(".")):
            groups.decayed.append(parameter)
        else:
            groups.hidden.append(parameter)
    return groups
