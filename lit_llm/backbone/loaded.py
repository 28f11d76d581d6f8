"""A network with its tokenizer, to be asked and not to be trained; what is held in memory is not read again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from lit_llm.backbone.huggingface import load_model
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.backbone.transformers_folder import Library
from lit_llm.backbone.weights import weights_hash
from lit_llm.model_sources.adapters import base_files, base_of
from lit_llm.model_sources.folders import folder_of
from lit_llm.runtime.file_hashes import identity_of
from lit_llm.runtime.model_folder import is_adapter
from lit_llm.text.tokenizer import Tokenizer, load_tokenizer


@dataclass(eq=False)
class LoadedModel:
    """Whoever holds it may move the model to a device, and must not change its weights."""

    model: LanguageModel | ScoreModel
    tokenizer: Tokenizer
    known_sha256: str | None = None  # of the weights, where somebody has taken it

    @cached_property
    def sha256(self) -> str:
        """Of the weights."""
        return self.known_sha256 or weights_hash(self.model)

    @property
    def key(self) -> tuple[str, str]:
        """What its answers depend on: weights and tokenizer."""
        return self.sha256, self.tokenizer.fingerprint()


_held: WeakValueDictionary[tuple[object, ...], LoadedModel] = WeakValueDictionary()


def load_shared(folder: str | Path, library: Library = "auto", trust_remote_code: bool = False) -> LoadedModel:
    """What is in a model folder, in float32 and frozen; read where nobody in this process holds it already.
    ``library``, ``trust_remote_code``: as ``load_model`` takes them.

    It leaves the memory with its last holder. A folder that was written again since is another one. Raises UserError as
    ``load_model`` and ``load_tokenizer`` do.
    """
    folder = folder_of(folder)
    files = sorted(path for path in folder.glob("*") if path.is_file())
    files += base_files(base_of(folder)) if is_adapter(folder) else []
    known = (library, *((path.name, *identity_of(path)) for path in files))
    found = _held.get(known)
    if found is None or any(weight.dtype != torch.float32 for weight in found.model.parameters()):
        # In another type: a Trainer of bf16-true rounds the frozen networks of its stage too.
        model = load_model(folder, "auto", library=library, trust_remote_code=trust_remote_code)
        model = model.eval().requires_grad_(False)
        found = _held[known] = LoadedModel(model, load_tokenizer(folder))
    return found
