"""Log-probabilities under a frozen reference as a file, which says of which data and which model they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lit_llm.backbone.completions import KEY_BYTES
from lit_llm.backbone.weights import write_tensors
from lit_llm.data.token_cache import CODE as TOKENS
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import NotWritten
from lit_llm.runtime.code_key import code_key
from lit_llm.runtime.host_copies import sent

CODE = (*TOKENS, "lit_llm.data.preferences", "lit_llm.data.labelled_answers", "lit_llm.backbone.completions")
"""What makes completions of data, and their keys."""


class KnownLogps:
    """Log-probabilities by completion's key. The keys are the host's, the values stay on the device where they were
    computed and are read: nobody waits for it.

    Args:
        known: what is known from the start, on the CPU.
    """

    def __init__(self, known: Mapping[bytes, float]) -> None:
        self._places = {key: place for place, key in enumerate(known)}
        self._values = torch.tensor(list(known.values()), dtype=torch.float64)  # with room for more behind them

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def add(self, keys: Sequence[bytes], values: Tensor) -> None:
        """Values (N,) of N keys, of which some may be the same: then the last one counts."""
        row_of = {key: row for row, key in enumerate(keys)}
        places = [self._places.setdefault(key, len(self._places)) for key in row_of]
        rows, known = sent(torch.tensor([[*row_of.values()], places]), values.device)
        self._grow(values.device)
        self._values.index_copy_(0, known, values[rows].to(self._values.dtype))

    def of(self, keys: Sequence[bytes], device: torch.device) -> Tensor:
        """(N,) on a device, in torch's default dtype."""
        places = sent(torch.tensor([self._places[key] for key in keys]), device)
        return self._on(device)[places].to(torch.get_default_dtype())

    def as_dict(self) -> dict[bytes, float]:
        return dict(zip(self._places, self._values[: len(self)].tolist(), strict=True))

    def _on(self, device: torch.device) -> Tensor:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._values = sent(self._values.to(dtype), device)
        return self._values

    def _grow(self, device: torch.device) -> None:
        """To room for all keys, and then for twice as many: what is there is copied log N times, not at each step."""
        values = self._on(device)
        if len(values) < len(self):
            self._values = torch.cat([values, values.new_empty(2 * len(self) - len(values))])


class Origin(NamedTuple):
    """What log-probabilities were computed from: with another value of any of these they are others."""

    data: str  # fingerprint of the data: records, tokenizer, lengths, order
    reference: str  # SHA-256 of the reference's weights, with their dtype
    precision: str  # of the forward pass

    def file_in(self, cache_dir: str | Path) -> Path:
        """Where they are kept. Other code may make other completions of the same data: these have a file of their own,
        and a file that is named is read all the same, by the completions that it holds."""
        name = hashlib.sha256("\0".join([*self, code_key(*CODE)]).encode()).hexdigest()[:32]
        return Path(cache_dir) / "reference_logps" / f"{name}.safetensors"


def write(path: Path, origin: Origin, known: Mapping[bytes, float]) -> None:
    """Writes one file, atomically. Raises UserError where it cannot."""
    tensors = {
        "origin": torch.frombuffer(bytearray(json.dumps(origin._asdict()).encode()), dtype=torch.uint8),
        **as_tensors(known),
    }
    try:
        write_tensors(path, tensors)
    except NotWritten as error:
        raise UserError(f"{path}: cannot be written ({error.reason}); set data.cache_dir elsewhere") from None


def read(path: str | Path, origin: Origin) -> dict[bytes, float]:
    """The log-probabilities by key. Raises UserError where the file is missing, damaged or of another origin."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"stage.reference_logps={path}: no such file; stage.reference_cache=true writes one")
    try:
        tensors = load_file(path)
        found: dict[str, Any] = json.loads(bytes(tensors["origin"].tolist()))
        known = from_tensors(tensors)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: no log-probabilities of a reference ({error}); delete it, and run again") from None
    for name, wanted in origin._asdict().items():
        if found.get(name) != wanted:
            shown = [str(one)[:16] for one in (found.get(name), wanted)]
            raise UserError(
                f"{path}: computed with another {name} ({shown[0]}) than this run's ({shown[1]}); leave "
                "stage.reference_logps out, and stage.reference_cache=true computes them anew"
            )
    return known


def as_tensors(known: Mapping[bytes, float]) -> dict[str, Tensor]:
    """N log-probabilities by key: "keys" (N, 16) uint8, "logps" (N,) float64."""
    keys = torch.tensor(list(b"".join(known)), dtype=torch.uint8)
    return {"keys": keys.view(-1, KEY_BYTES), "logps": torch.tensor(list(known.values()), dtype=torch.float64)}


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[bytes, float]:
    """What ``as_tensors`` was given."""
    keys = (key.tobytes() for key in tensors["keys"].numpy())
    return dict(zip(keys, tensors["logps"].tolist(), strict=True))
