"""Log-probabilities under a frozen reference as a file, which says of which data and which model they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lit_llm.backbone.weights import write_tensors
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import NotWritten

KEY_BYTES = 16


class Completions(NamedTuple):
    """N completions of prompts, right-padded."""

    input_ids: Tensor  # (N, T) int64: prompt, completion with its end token, padding
    prompt_lengths: Tensor  # (N,) int64
    lengths: Tensor  # (N,) int64: prompt and completion

    def keys(self) -> list[bytes]:
        """What identifies each: 16 bytes of BLAKE2 of its tokens and of where its prompt ends."""
        rows = zip(self.input_ids.cpu().numpy(), self.lengths.tolist(), self.prompt_lengths.tolist(), strict=True)
        texts = (row[:length].tobytes() + prompt.to_bytes(4, "little") for row, length, prompt in rows)
        return [hashlib.blake2b(text, digest_size=KEY_BYTES).digest() for text in texts]

    def rows(self, kept: list[int]) -> Completions:
        """Some of them, no wider than they need."""
        at = torch.tensor(kept, device=self.input_ids.device)
        lengths = self.lengths[at]
        return Completions(self.input_ids[at, : int(lengths.max())], self.prompt_lengths[at], lengths)


class Origin(NamedTuple):
    """What log-probabilities were computed from: with another value of any of these they are others."""

    data: str  # fingerprint of the data: records, tokenizer, lengths, order
    reference: str  # SHA-256 of the reference's weights, with their dtype
    precision: str  # of the forward pass

    def file_in(self, cache_dir: str | Path) -> Path:
        name = hashlib.sha256("\0".join(self).encode()).hexdigest()[:32]
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
