"""What is said of a group's file that is not there."""

from __future__ import annotations

from collections.abc import Sequence

from lit_llm.config.conf_files import options
from lit_llm.runtime.suggestions import hint


def chosen(group: str, name: str, known: Sequence[str]) -> str:
    """Of one that the command line asks for. ``known``: those of the group that are there."""
    if (group, name) == ("hydra/launcher", "ray"):
        return f"{group}={name}: Hydra's plugin for it is not installed; pip install 'lit-llm[ray]'"
    return f"{group}={name}: no such {group.split('/')[-1]}; {hint(name, list(known))}"


def named(file: str, known: Sequence[str]) -> str:
    """Of one (group/name) that another file or command asks for."""
    group, _, name = file.rpartition("/")
    if group == "run":
        return f"run={name}: no such run; write conf/run/{name}.yaml, or take another's: stage={name} run=NAME"
    if group == "experiment/pipeline" and name in options("experiment"):
        return f"experiment/pipeline/{name}: is experiment/{name} now; write {name} in the defaults of your own file"
    if group == "experiment" and name in options("run"):
        return f"experiment={name}: is run={name} now; in a file of your own write override /stage: {name}"
    return f"{group or 'defaults'}={name}: no such {group or 'file'}; {hint(name, list(known))}"
