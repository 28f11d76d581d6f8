"""One run of one stage: load, build, fit, report."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lit_llm.backbone.options import TransformersOptions
from lit_llm.config import schema
from lit_llm.config.pretrained_defaults import tell
from lit_llm.config.resume_compatibility import refuse_another
from lit_llm.errors import UserError
from lit_llm.runtime.devices import is_sharded
from lit_llm.runtime.distributed import first_alone, is_first_process, lost_processes_told, one_process_at
from lit_llm.runtime.garbage_collection import imports_uncollected
from lit_llm.runtime.out_of_resources import told_in_one_line
from lit_llm.runtime.run_folder import RunFolder

if TYPE_CHECKING:  # torch and Lightning are imported only when the configuration has been found good
    import lightning as L

    from lit_llm.training.build import Parts
    from lit_llm.training.evaluate import RunEvaluation

log = logging.getLogger("lit_llm")


def run(cfg: DictConfig, path: Path) -> dict[str, Any]:
    """The story of a run. Raises UserError for what the user can mend, SystemExit(143) when stopped by SIGTERM."""
    with imports_uncollected():
        from lit_llm.training.build import load
        from lit_llm.training.evaluate import RunEvaluation
        from lit_llm.training.finalize import finalize
        from lit_llm.training.plan.micro_batch import settled
        from lit_llm.training.trainer import build

    folder, started = RunFolder(path), time.monotonic()
    with (
        one_process_at(folder.path),
        lost_processes_told(folder.kept),
        told_in_one_line(lambda: needs_less(cfg), folder.kept),
    ):
        prepare(cfg, folder)
        cfg = settled(cfg, folder.path)
        parts = load(cfg, folder.path)
        trainer, evaluation = build(parts, folder.path), RunEvaluation(parts, folder)
        before = fit(parts, trainer, folder, evaluation)
        return finalize(parts, trainer, folder, evaluation, before, started)


def needs_less(cfg: DictConfig) -> str:
    """What a run that memory ran out on can be given, by the keys that its configuration has."""
    keys = [f"{group}.{key}" for group, key in (
        ("data", "micro_batch_size"), ("data", "max_length"), ("stage", "group_size"), ("stage", "max_new_tokens"),
        ("evaluation", "batch_size"),
    ) if cfg[group].get(key) is not None and (group != "evaluation" or cfg.evaluation.enabled)]  # fmt: skip
    values = ", ".join(f"{key}={OmegaConf.select(cfg, key)}" for key in keys)
    more = [] if cfg.trainer.gradient_checkpointing else ["trainer.gradient_checkpointing=true"]
    more += ["stage.lora_rank=16"] if "lora_rank" in cfg.stage and not cfg.stage.lora_rank else []
    ours = cfg.backbone.get("_target_") != TransformersOptions.TARGET
    if ours and cfg.stage.get("lora_rank") and "lora_quantization" in cfg.stage and not cfg.stage.lora_quantization:
        more.append("stage.lora_quantization=nf4")
    more += ["data.num_workers=0"] if cfg.data.get("num_workers") else []
    return f"lower {values}" + (f", or give {' or '.join(more)}" if more else "")


def prepare(cfg: DictConfig, folder: RunFolder) -> None:
    """Write down what is about to run. A folder that holds another run is not written over."""
    from lit_llm.runtime.allocator import GATHERED, keep_freed_memory

    keep_freed_memory(GATHERED if is_sharded(cfg.trainer) else None)
    quiet()
    if not is_first_process():
        return
    refuse_another(cfg, folder)
    folder.mark("running", schema.identity(cfg))  # first: a folder with files and without it is none of a run
    schema.save(cfg, folder.config)
    tell(cfg)


# Lightning's warnings about what is meant here: (what it says, why it is so).
INTENDED = (
    (r".*isinstance\(treespec, LeafSpec\).*", "Lightning 2.6 with torch 2.13"),
    (r".*is smaller than the logging interval.*", "a short run logs its last step all the same"),
    (r"The `srun` command is available.*", "a mismatch of tasks and devices is refused (runtime/started_by.py)"),
    (r"It is recommended to use `self\.log\('(val|test)/.*sync_dist=True\)`", "stages add up over all processes"),
    (r"Found \d+ module\(s\) in eval mode.*", "references, rewards and policies without dropout stay in it"),
)


def quiet() -> None:
    """Lightning's lines about devices and products say nothing that this run does not say itself."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message, _ in INTENDED:
        warnings.filterwarnings("ignore", message=message)


def fit(parts: Parts, trainer: L.Trainer, folder: RunFolder, evaluation: RunEvaluation) -> dict[str, Any]:
    """Train, from the newest good checkpoint when resuming. Returns the parent's held-out scores, taken before."""
    from lit_llm.checkpointing.resume import find_checkpoint
    from lit_llm.runtime.allocator import give_back_freed_memory

    cfg = parts.cfg
    with first_alone(folder.path, "before training") as found:
        checkpoint = find_checkpoint(folder.path) if cfg.resume is not None and is_first_process() else None
        found.word = str(checkpoint or "")  # every byte of it is hashed, once
        announce(parts, folder, checkpoint)
        tell_data(parts, folder)
        foresee(parts)
        before = evaluation.before()
        give_back_freed_memory()
    if cfg.trainer.compile and is_first_process():
        log.info("trainer.compile=true: the model is compiled in its first step, which may take a minute or more")
    trainer.fit(parts.stage, datamodule=parts.data, ckpt_path=found.word or None, weights_only=True)
    save_and_gather(parts, folder)
    give_back_freed_memory()
    return before


def save_and_gather(parts: Parts, folder: RunFolder) -> None:
    """Of a model that is spread over processes: write its folder, tensor by tensor, and have the first process hold
    all of it only where it is evaluated there."""
    from lit_llm.lineage import lineage

    stage = parts.stage
    if stage.sharding is None or parts.cfg.trainer.fast_dev_run:
        return
    if is_first_process():
        lineage.forget(folder.model)
    stage.save(folder.model)
    if parts.cfg.evaluation.enabled or getattr(stage, "reward_validation", None) is not None:
        stage.gather()


def tell_data(parts: Parts, folder: RunFolder) -> None:
    """The data as a table, said and written to ``data.json`` before anything trains; loud where much is not read."""
    from lit_llm.runtime.atomic_files import write_json

    if not is_first_process():
        return
    overview, later = parts.data.overview(), parts.data.left_out_later()
    for line in overview.lines(later):
        log.info("  %s", line)
    for line in overview.warnings():
        log.warning("WARNING: %s", line)
    write_json(folder.data, overview.as_dict() | {"left_out_later": later})


def foresee(parts: Parts) -> None:
    """Says before the first step what will not be measured at the end; a sweep's job, which is compared by it, ends."""
    from lit_llm.config.run_objective import missing
    from lit_llm.training.sweep import in_sweep

    cfg = parts.cfg
    if not is_first_process() or cfg.evaluation.objective is None or cfg.trainer.fast_dev_run:
        return
    line = missing(schema.plain(cfg), {one.name: one.kind for one in parts.data.heldout() if one.items})
    if line is not None and in_sweep():
        raise UserError(line)
    if line is not None:
        log.warning("%s", line)


def announce(parts: Parts, folder: RunFolder, checkpoint: Path | None) -> None:
    """What is about to happen, said before it takes time."""
    from lit_llm.backbone.models import count_parameters
    from lit_llm.backbone.new_rows import count_trained
    from lit_llm.lineage.lineage import commit

    if not is_first_process():
        return
    total = count_parameters(parts.stage.model)
    trained = count_trained(parts.stage.model)
    code = commit()
    changed = " with local changes" if code.get("changed") else ""
    log.info("%s: %s parameters, %s trained; seed %d; commit %s%s", parts.stage.name, f"{total:,}", f"{trained:,}",
             parts.cfg.seed, code.get("commit", "unknown")[:12], changed)  # fmt: skip
    init_from = schema.plain(parts.cfg)["init_from"]  # as it was given: without secrets
    origin = f"from {init_from}" if init_from else "from scratch"
    if not init_from and checkpoint is None and not parts.stage.from_scratch:
        log.warning("%s: starts from random weights; init_from=FOLDER starts from a trained model", parts.stage.name)
    log.info("%s, into %s", f"resumed from {checkpoint}" if checkpoint else origin, folder.path)
