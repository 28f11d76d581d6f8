"""How often a command reads what lies in folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lit_llm.backbone import huggingface
from lit_llm.evaluation import sets
from lit_llm.text import tokenizer


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """From now on: how often the weights and the tokenizer of each folder, and each held-out file, were read."""
    found: Counter[str] = Counter()

    def counting(module: Any, name: str, path_of: Any) -> None:
        read = getattr(module, name)

        def counted(what: Any, *rest: Any) -> Any:
            found[f"{name} {path_of(what)}"] += 1
            return read(what, *rest)

        monkeypatch.setattr(module, name, counted)

    counting(huggingface, "read_tensors", lambda files: files[0].parent.resolve())
    counting(tokenizer, "read_engine", lambda file: file.parent.resolve())
    counting(sets, "read_heldout", lambda file: Path(file).resolve())
    return found
