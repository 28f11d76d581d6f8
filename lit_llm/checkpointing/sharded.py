"""A checkpoint as a folder, which many processes write and read: ``step-000000012.ckpt/``.

    __0_0.distcp ...   tensors: of each process the parts that it held
    .metadata          which part of which tensor lies where, torch's index
    meta.pt            everything else, as in a checkpoint of one file: counters, callbacks, random states
    manifest.json      written last: size and SHA-256 of each of these files

All of it is written under a temporary name, which the first process changes once every process has written its files:
a folder that has its name is whole. All processes of a run see one file system.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from lit_llm.checkpointing import shards
from lit_llm.checkpointing.hashed_file import MANIFEST, HashedFile, change_of
from lit_llm.checkpointing.training_state import Collected, optimizer_key, weight_key
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import cannot_be_written, new_folder_beside, put_in_place, remove
from lit_llm.runtime.distributed import gathered

FORMAT = 1  # of the manifest
REST = "meta.pt"


class Stored(NamedTuple):
    """A checkpoint that was found whole: all but its tensors, and where those lie."""

    path: Path
    rest: dict[str, Any]
    index: Any  # shards.read_index

    @property
    def aliases(self) -> dict[str, str]:
        """Names of tied weights, which are not written twice, to those that they are written under."""
        return dict(self.rest["aliases"])

    def weight_shapes(self) -> dict[str, Tensor]:
        """The names of all weights, with tensors that have shapes and no memory."""
        known = {name: shards.on_meta(self.index, weight_key(name)) for name in self.rest["weights"]}
        return known | {alias: known[name] for alias, name in self.aliases.items()}

    def weights(self, like: Mapping[str, Tensor], alone: bool = False) -> dict[str, Tensor]:
        """All weights, each sharded as ``like``'s of that name. ``alone`` as ``shards.read``."""
        found = {name: shards.empty(self.index, weight_key(name), like.get(name)) for name in self.rest["weights"]}
        shards.read({weight_key(name): tensor for name, tensor in found.items()}, self.path, self.index, alone)
        return found | {alias: found[name] for alias, name in self.aliases.items()}

    def optimizer_states(
        self, like: Mapping[str, Tensor] | None = None, alone: bool = False
    ) -> list[dict[str, Any]]:
        """As torch's ``Optimizer.state_dict``, and ``names``, of the parameters in their order; ``like`` are those by
        name, where parts are wanted. ``alone`` as ``shards.read``."""
        wanted: dict[str, Tensor] = {}
        states = []
        for number, told in enumerate(self.rest.get("optimizer_states", ())):
            state = {index: dict(values) for index, values in told["state"].items()}
            for index, entries in told["tensors"].items():
                name = told["names"][index]
                for entry in entries:
                    key = optimizer_key(number, name, entry)
                    wanted[key] = shards.empty(self.index, key, (like or {}).get(name))
                    state[index][entry] = wanted[key]
            states.append({"state": state, "param_groups": told["param_groups"], "names": told["names"]})
        shards.read(wanted, self.path, self.index, alone)
        return states


def save(collected: Collected, path: Path, group: dist.ProcessGroup | None = None) -> None:
    """Write a checkpoint. All processes of ``group`` call it, with equal paths; what it holds of one process beside
    tensors is the first one's.

    Raises NotWritten or another error, the same in every process; what was at ``path`` before is kept then.
    """
    first = dist.get_rank(group) == 0
    temporary = _of_first(lambda: new_folder_beside(path), group)
    try:
        try:
            written = shards.write(collected.tensors, collected.held, temporary, path, group)
        except CheckpointException as error:
            raise _first_failure(path, error) from None
        entries = {name: entry for part in gathered(written, dist.get_world_size(group), group)
                   for name, entry in part.items()}  # fmt: skip
        _of_first(lambda: _finish(temporary, path, collected.rest, entries), group)
    finally:
        if first:
            remove(temporary)  # or gone by its renaming


def _finish(temporary: Path, path: Path, rest: dict[str, Any], entries: dict[str, Any]) -> None:
    try:
        with (temporary / REST).open("xb") as file:
            hashed = HashedFile(file)
            torch.save(rest, hashed)  # type: ignore[arg-type]
        manifest = {"format": FORMAT, "step": rest.get("global_step"), "files": entries | {REST: hashed.entry}}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        path.with_name(f"{path.name}.json").unlink(missing_ok=True)  # of a checkpoint of one file that is replaced
        put_in_place(temporary, path)
    except Exception as error:
        raise cannot_be_written(path, error) or error from error


def _of_first(make: Any, group: dist.ProcessGroup | None) -> Any:
    """What the first process of the group makes, or the error that it met, in every process."""
    answer: list[Any] = [None]
    if dist.get_rank(group) == 0:
        try:
            answer = [make()]
        except Exception as error:
            answer = [error]
    dist.broadcast_object_list(answer, src=dist.get_global_rank(group, 0) if group is not None else 0, group=group)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def _first_failure(path: Path, error: CheckpointException) -> Exception:
    rank, (failure, _) = min(error.failures.items())
    if isinstance(failure, UserError):  # the disk is full, or the folder cannot be written to
        return failure
    return RuntimeError(f"{path}: process {rank} could not write it: {failure!r}")


def problem_with(path: Path, rank: int = 0, processes: int = 1) -> str | None:
    """What is wrong with a checkpoint's folder, in words; None if every byte is as it was written. Among several
    processes each hashes some of the files."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        form, files = manifest["format"], dict(manifest["files"])
        known = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        return f"was not finished (no {MANIFEST})"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"has a damaged {MANIFEST}"
    if form != FORMAT:
        return f"was written in format {form}; this version reads format {FORMAT}"
    if absent := sorted(name for name in known if not (path / name).is_file()):
        return f"{absent[0]} is missing"
    for name in sorted(known)[rank::processes]:
        if change := change_of(path / name, *known[name]):
            return f"{name} {change}"
    return None


def opened(path: Path) -> Stored:
    """A checkpoint's folder, which ``problem_with`` finds whole. Raises UserError for what is no checkpoint."""
    files = json.loads((path / MANIFEST).read_bytes())["files"]
    try:
        rest = torch.load(path / REST, map_location="cpu", weights_only=True)
        assert rest.keys() >= {"weights", "aliases"}
    except Exception as error:
        said = str(error).split("\n", 1)[0]
        raise UserError(f"{path / REST}: cannot be read as a checkpoint's plain values ({said})") from error
    return Stored(path, rest, shards.read_index(path, files))


def load(path: Path) -> dict[str, Any]:
    """The checkpoint as one of a single file holds it, every tensor whole, in this process."""
    stored = opened(path)
    content = {key: value for key, value in stored.rest.items() if key not in ("weights", "aliases")}
    content["state_dict"] = stored.weights({}, alone=True)
    if "optimizer_states" in content:
        content["optimizer_states"] = stored.optimizer_states(alone=True)
    return content


def check_finite(path: Path) -> None:
    """Raise UserError for a weight that is not finite; a part of one is in memory at a time."""
    begin = weight_key("")
    for key, part in shards.parts(path, opened(path).index):
        if key.startswith(begin) and part.is_floating_point() and not torch.isfinite(part).all():
            raise UserError(f"{path}: the weight {key.removeprefix(begin)} is not finite")
