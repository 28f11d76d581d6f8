"""Report: what a finished run leaves behind, and what it says at its end."""

from __future__ import annotations

import logging
import math
import platform
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from lit_llm.backbone.huggingface import head_in
from lit_llm.backbone.models import count_parameters
from lit_llm.callbacks.throughput import TokenCount
from lit_llm.config import schema
from lit_llm.config.environment import hiding
from lit_llm.config.run_objective import LOSS
from lit_llm.data.projects import is_project, place_of
from lit_llm.data.store_requests import shown
from lit_llm.data.stores import is_remote, of
from lit_llm.errors import UserError
from lit_llm.lineage import lineage, model_card
from lit_llm.runtime.atomic_files import write_json, write_text
from lit_llm.runtime.devices import is_sharded
from lit_llm.runtime.distributed import is_first_process
from lit_llm.runtime.run_folder import RunFolder
from lit_llm.runtime.terminal import near, typed
from lit_llm.training.build import Parts
from lit_llm.training.evaluate import Metrics, RunEvaluation
from lit_llm.training.hparams import told_apart
from lit_llm.training.merge_loss import in_a_line, merge_loss
from lit_llm.training.result import in_one_sentence
from lit_llm.training.reward_validation import validate_reward_model
from lit_llm.training.vocabulary_report import in_lines

log = logging.getLogger("lit_llm")


def finalize(
    parts: Parts, trainer: L.Trainer, folder: RunFolder, evaluation: RunEvaluation, before: Metrics, started: float
) -> dict[str, Any]:
    """Write the model folder, the evaluation, metrics.json, lineage and card. Returns the metrics."""
    metrics = training_metrics(parts, trainer) | {"train_seconds": time.monotonic() - started}
    if parts.cfg.trainer.fast_dev_run or not is_first_process():
        return metrics | {"objective": objective(metrics, None), "objective_of": LOSS}
    device = trainer.strategy.root_device
    if parts.stage.sharding is None:
        parts.stage.cpu().eval()
    if not is_sharded(parts.cfg.trainer):  # else all processes have written it together
        lineage.forget(folder.model)
        parts.stage.save(folder.model)
    unmerged = evaluation.by_adapters(device)
    after, floors = evaluation.after(device)
    parts.stage.evaluated(folder.model, after)
    validation = validate_reward_model(evaluation, folder, device)
    metrics |= {} if validation is None else {"reward_validation": validation}
    metrics |= {"heldout": after, "floors": floors, "before": before, "seconds": time.monotonic() - started}
    metrics |= merge_loss(parts.stage, unmerged, after)
    if evaluation.vocabulary is not None:
        metrics["vocabulary"] = evaluation.vocabulary.figures
    metrics |= compared(metrics, parts.cfg.evaluation.objective)
    write_json(folder.metrics, metrics)
    log_final(parts, trainer, folder, metrics)
    describe(parts, folder, metrics)
    folder.mark("finished", schema.identity(parts.cfg))
    say(parts, folder, metrics)
    return metrics


def training_metrics(parts: Parts, trainer: L.Trainer) -> dict[str, Any]:
    """What training itself measured: its last values, steps and tokens, and how its data was read."""
    last: dict[str, Any] = {**trainer.callback_metrics, **parts.stage.latest}
    values = {key: float(value) for key, value in sorted(last.items())}
    tokens = next(one.total for one in trainer.callbacks if isinstance(one, TokenCount))  # type: ignore[attr-defined]
    if "train/tokens" in values:  # as of the last step that was logged
        values["train/tokens"] = float(tokens)
    return {
        "stage": parts.stage.name,
        "parameters": count_parameters(parts.stage.model),
        "steps": trainer.global_step,
        "tokens": tokens,
        "counts": parts.data.counts(),
        "data": parts.data.overview().as_dict() | {"left_out_later": parts.data.left_out_later()},
        "dropped_shares": parts.data.dropped_shares(),
        "hardware": hardware(trainer),
        "train": values,
        "train_loss": values.get("train/loss"),
        "val_loss": values.get("val/loss"),
    }


def hardware(trainer: L.Trainer) -> dict[str, Any]:
    """What every auto became: where and in which precision the run computed."""
    device = trainer.strategy.root_device
    cuda = device.type == "cuda"
    return {
        "precision": str(trainer.precision),
        "accelerator": device.type,
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "devices": trainer.world_size,
        "threads": torch.get_num_threads(),
    }


def compared(metrics: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """What sweeps compare, and the name of it. What was not measured is said, and is no error: the run is done."""
    try:
        found = objective(metrics, name)
    except UserError as error:
        log.warning("%s", error)
        found = None
    return {"objective": found, "objective_of": name or LOSS}


def objective(metrics: Mapping[str, Any], name: str | None) -> float | None:
    """The one number that sweeps compare, less being better: "set/measure", or "-set/measure" where more is, negated;
    without a name the validation loss."""
    if name is None:
        value: float | None = metrics.get("val_loss")
        return value
    sign, name = (-1.0, name[1:]) if name.startswith("-") else (1.0, name)
    group, _, measure = name.partition("/")
    heldout = metrics.get("heldout") or {}
    if measure not in heldout.get(group, {}):
        known = ", ".join(f"{one}/{each}" for one, scores in heldout.items() for each in scores)
        raise UserError(f"evaluation.objective={name}: not measured; this run measured {known or 'nothing held out'}")
    mean = heldout[group][measure]["mean"]
    return sign * mean if mean is not None else None


def log_final(parts: Parts, trainer: L.Trainer, folder: RunFolder, metrics: Mapping[str, Any]) -> None:
    """Hyperparameters and final metrics for TensorBoard's HPARAMS page, and the held-out scores as scalars."""
    scores = dict(final_scores(metrics))
    params = told_apart(folder.path, parts.cfg.seed)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(params, {f"hp/{key}": value for key, value in scores.items()})
        else:
            logger.log_hyperparams(params)
        logger.log_metrics({f"heldout/{key}": value for key, value in scores.items()}, step=trainer.global_step)
        logger.save()
        logger.finalize("success")


def final_scores(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, value) of what a run ended with. ``objective`` is what sweeps compare: less of it is better, always; under
    its own name a measure of which more is better is not negated."""
    for name in ("objective", "val_loss", "train_loss"):
        if metrics.get(name) is not None and math.isfinite(metrics[name]):
            yield name, float(metrics[name])
    for group, scores in metrics["heldout"].items():
        for measure, value in scores.items():
            if value.get("mean") is not None and math.isfinite(value["mean"]):
                yield f"{group}/{measure}", float(value["mean"])


def describe(parts: Parts, folder: RunFolder, metrics: Mapping[str, Any]) -> None:
    """lineage.json and README.md of the model folder."""
    config = schema.plain(parts.cfg)
    config.pop("resume", None)
    kept = (
        "parameters", "steps", "tokens", "seconds", "hardware", "heldout", "floors", "before", "reward_validation",
        "merge", "vocabulary",
    )  # fmt: skip
    record = lineage.record(
        folder.model,
        stage=parts.stage.name,
        config=config,
        parents=lineage.parents_in(config),
        data={
            "fingerprint": parts.data.fingerprint(),
            "counts": metrics["counts"],
            "files": data_files(parts),
            **({"elsewhere": found} if (found := data_elsewhere(parts)) else {}),
        },
        metrics={key: metrics[key] for key in kept if key in metrics},
        tokenizer={"fingerprint": parts.tokenizer.fingerprint(), "tokens": parts.tokenizer.vocab_size},
        simulated=bool(metrics["counts"].get("simulated")),
        people=bool(metrics["counts"].get("people")),
    )
    write_text(folder.model / "README.md", model_card.render(record))


def data_files(parts: Parts) -> list[str]:
    """The files (and ranking projects) that the run's data was read from; where the environment tells a place, as the
    configuration says."""
    hidden = hiding(parts.cfg)
    files = dict.fromkeys(place_of(file) if is_project(file) else file for file in parts.data.files())
    return [hidden(file) for file in files if is_project(file) or Path(file).is_file()]


def data_elsewhere(parts: Parts) -> list[dict[str, Any]]:
    """What the run's data was read from and is not on this disk: files of stores, with what these said of them, and
    data sets of the hub."""
    hidden = hiding(parts.cfg)
    files = [file for file in dict.fromkeys(parts.data.files()) if not is_project(file) and not Path(file).is_file()]
    return [
        {"place": shown(hidden(file)), "bytes": of(file).size, "tag": of(file).tag} if is_remote(file)
        else {"place": hidden(file)}
        for file in files
    ]  # fmt: skip


def say(parts: Parts, folder: RunFolder, metrics: Mapping[str, Any]) -> None:
    """What came out, where it is, and what can be done with it."""
    counts = metrics["counts"]
    replayed = f"; of the text that is replayed {_counted(counts['replayed'])}" if "replayed" in counts else ""
    log.info("  data: %s%s", _counted(counts), replayed)
    for group, scores in metrics["heldout"].items():
        log.info("  held-out %s: %s", group, _listed(scores, metrics, group))
    for group, floors in metrics["floors"].items():
        for floor, scores in floors.items():
            log.info("  floor of %s, %s: %s", group, floor, _listed(scores, {}, group))
    if "merge" in metrics:
        log.info("  %s", in_a_line(metrics["merge"]))
    if "vocabulary" in metrics:
        log.info("  vocabulary: %s", "; ".join(in_lines(metrics["vocabulary"])))
    best = (parts.cfg.callbacks.get("checkpoints") or {}).get("monitor")
    checkpoint = folder.best_checkpoint  # the newest, where nothing says which is the best
    if best or checkpoint is not None:
        what = "best" if best else "newest"
        log.info("  %s checkpoint: %s", what, "none was kept" if checkpoint is None else near(checkpoint))
    log.info("  curves: tensorboard --logdir %s", typed(folder.path))
    log.info("%s", in_one_sentence(metrics))
    log.info("model: %s", near(folder.model))
    chat = type(parts.stage).__name__ not in ("Pretraining", "ContinuedPretraining")
    if head_in(folder.model) != "language":
        log.info("next: python scripts/evaluate.py run=%s", typed(folder.path))
    elif chat:
        log.info("next: python scripts/chat.py model=%s", typed(folder.model))
    else:
        log.info('next: python scripts/generate.py model=%s prompt="%s"', typed(folder.model), beginning(parts))


def beginning(parts: Parts) -> str:
    """Some words of the held-out text at hand, without anything that a shell or Hydra would read."""
    texts = (item.text for one in parts.data.heldout() if one.kind == "documents" for item in one.items)
    found = (re.findall(r"[^\W_]+", text[:200])[:3] for text in texts)
    return " ".join(next((words for words in found if words), ["..."]))


def _counted(counts: Mapping[str, Any]) -> str:
    skipped = ", ".join(f"{reason} {count:,}" for reason, count in counts["skipped"].items() if count)
    return f"read {counts['read']:,}, used {counts['used']:,}, skipped {skipped or 'none'}"


def _listed(scores: Mapping[str, Any], metrics: Mapping[str, Any], group: str) -> str:
    return ", ".join(_shown(name, scores[name], metrics, group) for name in scores)


def _shown(name: str, value: Mapping[str, Any], metrics: Mapping[str, Any], group: str) -> str:
    if value["mean"] is None:
        return f"{name} not to be told (n={value['n']})"
    before = (metrics.get("before") or {}).get(group, {}).get(name)
    was = f" (was {before['mean']:.4g})" if before and before.get("mean") is not None else ""
    error = f" ± {value['se']:.2g}" if value.get("se") is not None else ""
    above = value.get("above") or {}
    beside = f" (the model {above['mean']:+.3g} ± {above['se'] or 0:.2g})" if above.get("mean") is not None else ""
    return f"{name} {value['mean']:.4g}{error} (n={value['n']}){was}{beside}"
