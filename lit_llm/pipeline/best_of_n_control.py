"""Best-of-n at a pipeline's end: the control for its reinforcement learning, measured once for a model and its rewards.

``best_of_n`` of the pipeline's configuration says of which steps; the result lies in the pipeline's folder, and in the
cache under the hash of all that it depends on.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_llm.backbone.weights import weights_hash
from lit_llm.config.pipeline_steps import filled, references
from lit_llm.config.schema import digest
from lit_llm.config.targets import construct
from lit_llm.evaluation.best_of_n import measure_best_of_n
from lit_llm.lineage.code_hash import code_hashes
from lit_llm.lineage.input_hash import data_hashes
from lit_llm.lineage.lineage import versions
from lit_llm.records import Prompt
from lit_llm.rewards.learned import LearnedReward
from lit_llm.runtime.atomic_files import write_json, write_text

log = logging.getLogger("lit_llm")

FILE = "best_of_n.json"
ASKED = ("n", "max_new_tokens", "temperature", "seed")  # what the result depends on besides models and prompts
CODE = ["lit_llm.evaluation.best_of_n.measure_best_of_n", "lit_llm.rewards.learned.LearnedReward"]


def write_best_of_n(config: Mapping[str, Any], folder: Path, models: Any) -> Path | None:
    """best_of_n.json in the pipeline's folder; None, with a line that says why, where it cannot be measured.

    ``models`` are the pipeline's (``final_evaluation.Models``).
    """
    settings = config["best_of_n"]
    if not settings["n"]:
        return None
    needed = [settings["model"], settings["proxy"], *references(settings["gold"] or {})]
    missing = [name for name in dict.fromkeys(needed) if name not in models.outputs]
    owner, prompts = _prompts(models, settings["prompts"])
    if missing or not prompts:
        why = f"no step {', '.join(missing)}" if missing else "no held-out prompts"
        log.info("best of n: not measured (%s)", why)
        return None
    gold = filled(settings["gold"], lambda name: models.outputs[name])
    loaded = models.loaded(settings["model"])
    model, tokenizer = loaded.model, loaded.tokenizer
    proxy = LearnedReward(folder=str(models.outputs[settings["proxy"]])).to(model.output_weight.device)
    bf16 = models.evaluator(owner).settings.bf16  # as the answers that it is compared with
    key = digest(
        [
            *(*loaded.key, weights_hash(proxy)),
            *(gold, data_hashes({"gold": gold}), code_hashes({"gold": gold, "by": CODE})),
            *(versions(), str(model.output_weight.device), bf16),
            *([asdict(prompt) for prompt in prompts], {name: settings[name] for name in ASKED}),
        ]
    )
    place = Path(config["cache_dir"]).parent / "best_of_n" / f"{key[:32]}.json"
    if not _whole(place):
        with torch.autocast(model.output_weight.device.type, torch.bfloat16, enabled=bf16):
            allowed = config.get("allowed_targets") or ()
            _measure(settings, model, tokenizer, prompts, proxy, gold, place, allowed)
    write_text(folder / FILE, place.read_text(encoding="utf-8"))
    return folder / FILE


def _measure(
    settings: Mapping[str, Any],
    model: Any,
    tokenizer: Any,
    prompts: list[Prompt],
    proxy: Any,
    gold: Any,
    place: Path,
    allowed: Sequence[str],
) -> None:
    started = time.monotonic()
    judge = None if gold is None else construct(gold, "reward", allowed, "best_of_n.gold")
    if isinstance(judge, nn.Module):
        judge.to(model.output_weight.device)
    result = measure_best_of_n(
        model,
        tokenizer,
        prompts,
        proxy,
        judge,
        **{name: settings[name] for name in ASKED},
        batch_size=settings["batch_size"],
        progress="best of n",
    )
    of = {"model": settings["model"], "reward": settings["proxy"], "seconds": time.monotonic() - started}
    write_json(place, result | of)


def _whole(place: Path) -> bool:
    try:
        return bool(json.loads(place.read_text(encoding="utf-8"))["points"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _prompts(models: Any, number: int) -> tuple[str, list[Prompt]]:
    """The first stage's held-out prompts, ``number`` of them drawn once for all, and whose they are."""
    found = [(stage, list(one.items)) for stage, one in models.prompts() if one.items]
    owner, items = found[0] if found else ("", [])
    return owner, items if len(items) <= number else random.Random(0).sample(items, number)
