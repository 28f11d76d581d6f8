"""The tokens that a run learns from its training text before its stage is made."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from omegaconf import DictConfig

from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.counted import counted
from lit_llm.runtime.distributed import is_first_process
from lit_llm.text.merges import LearnedMerges, learn_merges
from lit_llm.text.tokenizer import Tokenizer

log = logging.getLogger("lit_llm")
FILE = "vocabulary.json"


def learned(
    cfg: DictConfig, tokenizer: Tokenizer, folder: Path, texts: Callable[[], Iterable[str]]
) -> LearnedMerges | None:
    """What ``stage.new_tokens=auto:N`` learns from the training texts, kept in the run's folder, where a resumed run
    finds it, and each of several processes (``launch`` learns before it starts them); None where no tokens are to
    be learned."""
    asked = cfg.stage.get("new_tokens")
    if not isinstance(asked, str):
        return None
    count, file = int(asked.removeprefix("auto:")), folder / FILE
    made_for = {"asked": asked, "tokenizer": tokenizer.fingerprint()}
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if {key: kept.get(key) for key in made_for} == made_for:
        return LearnedMerges(tuple((left, right) for left, right in kept["merges"]), tuple(kept["tokens"]))
    found = learn_merges(tokenizer.engine, texts(), count, progress=cfg.trainer.progress and is_first_process())
    if is_first_process():
        write_json(file, {**made_for, "tokens": found.tokens, "merges": found.merges})
        if len(found.tokens) < count:
            were = counted(len(found.tokens), "token was", "tokens were")
            log.warning("stage.new_tokens=%s: the training text has no more pairs of tokens that come twice: %s "
                        "learned", asked, were)  # fmt: skip
    return found
