"""adapter_config.json of PEFT's, as far as it means here what it means there: any other setting is refused by name.

As PEFT 0.21.2 reads them (``peft.LoraConfig``, ``peft.tuners.lora.layer``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.config_file import ConfigFile
from lit_llm.backbone.layouts import layout_of
from lit_llm.backbone.lora_files import patterns
from lit_llm.backbone.peft_targets import ALPHAS, RANKS, SCORE, Size, chosen, path_of, saved_modules, sizes
from lit_llm.backbone.transformers_config import TransformersConfig
from lit_llm.backbone.weights import shapes_in
from lit_llm.errors import UserError

READ = frozenset({
    "peft_type", "base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout", "target_modules",
    "modules_to_save", "bias", "fan_in_fan_out", "use_rslora", "use_dora", "init_lora_weights", "rank_pattern",
    "alpha_pattern", "exclude_modules", "layers_to_transform", "layers_pattern",
})  # fmt: skip
HARMLESS = frozenset({
    "task_type", "auto_mapping", "peft_version", "inference_mode", "runtime_config",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config",  # read for init_lora_weights alone
    "qalora_group_size", "megatron_core",  # read beside use_qalora and megatron_config alone
})  # fmt: skip
"""Whatever they are, the adapter's numbers mean the same."""
REFUSED = frozenset({
    "megatron_config", "trainable_token_indices", "velora_config", "alora_invocation_tokens", "use_qalora",
    "monteclora_config", "layer_replication", "lora_bias", "target_parameters", "use_bdlora", "arrow_config",
    "kasa_config", "ensure_weight_tying",
})  # fmt: skip
"""Not here. PEFT's default of each says that it is not used."""
BASE_STAYS = ("gaussian", "eva", "orthogonal", "mica")
"""``init_lora_weights``, beside true and false, that leave the base's weights alone. Of the others PEFT takes from them
what A and B begin with (pissa, olora, corda, lora_ga), or rounds them (loftq), when it makes the adapter, and the first
two and loftq when it reads it again: A and B belong to no base that is in a file."""
MERGE = "merge the adapter with PEFT and load the merged folder"


def scales(file: ConfigFile) -> tuple[int, float, float]:
    """Rank, alpha, dropout. Raises UserError, with PEFT's names."""
    rank, alpha = file.number("r"), file.number("lora_alpha", float)
    dropout = file.number("lora_dropout", float, 0.0)
    if rank < 1:
        raise UserError(f"{file.path}: r={rank} should be at least 1")
    if not 0 < alpha < math.inf:
        raise UserError(f"{file.path}: lora_alpha={alpha} should be above 0")
    if not 0 <= dropout < 1:
        raise UserError(f"{file.path}: lora_dropout={dropout} should be at least 0 and below 1")
    return rank, alpha, dropout


def check_ranks(file: ConfigFile, weights: Path) -> None:
    """Raise UserError where a matrix in ``weights`` has another rank than the file says, before any is made so large:
    ``r`` or one of ``rank_pattern``."""
    said = file.raw.get("rank_pattern")
    allowed = [file.raw["r"], *(said.values() if isinstance(said, dict) else ())]
    shapes = {name: shape for name, shape in shapes_in(weights).items() if name.endswith(".lora_A.weight")}
    if not shapes:
        raise UserError(f"{weights}: holds no lora_A.weight; an adapter has one beside each of target_modules")
    for name, shape in shapes.items():
        if not shape or shape[0] not in allowed:
            raise UserError(f"{weights}: {name} has shape {list(shape)}, but {file.path.name} says r={file.raw['r']}")


def layers_in(
    file: ConfigFile,
    score: bool,
    config: BackboneConfig | TransformersConfig,
    modules: Collection[str],
    others: Iterable[str],
) -> tuple[dict[str, Size], bool]:
    """Check that the adapter is plain LoRA; returns the layers that it stands beside, by their names here, with rank
    and alpha of each, and whether the parts of fused layers share one A.

    Args:
        modules: the layers that can have one.
        others: the other modules of the model.
    """
    raw, (rank, alpha, _) = file.raw, scales(file)
    if raw.get("peft_type") != "LORA":
        raise file.refuse("peft_type", raw.get("peft_type"), "use LORA")
    _refuse_others(file)
    if raw.get("fan_in_fan_out") and not layout_of(config).transposed:
        raise file.refuse("fan_in_fan_out", raw["fan_in_fan_out"], MERGE)
    if raw.get("bias", "none") != "none":
        raise file.refuse("bias", raw["bias"], "use none")
    if ("score" in saved_modules(file)) != score:
        raise file.refuse("modules_to_save", saved_modules(file), 'with "score" for a reward model, else without')
    if not score and SCORE & set(saved_modules(file)):
        raise file.refuse("modules_to_save", saved_modules(file), "this model has no such head")
    paths = {name: path_of(name, config) for name in chosen(file, modules, others, config)}
    if not isinstance(config, TransformersConfig) and _is_ours(file, paths, config, rank, alpha):
        return dict.fromkeys(paths, Size(rank, alpha)), False
    return sizes(file, paths, Size(rank, alpha)), True


def _is_ours(file: ConfigFile, names: Collection[str], config: BackboneConfig, rank: int, alpha: float) -> bool:
    """Whether the parts of fused layers have each its own A, as it is written here: larger ranks say so."""
    last = {name.rpartition(".")[2] for name in names}
    ours = patterns(last, config, rank, alpha, file.flag("use_rslora", False))
    return bool(ours[RANKS]) and all(file.raw.get(key) == ours[key] for key in (RANKS, ALPHAS))


def _refuse_others(file: ConfigFile) -> None:
    for key, value in file.raw.items():
        if key in REFUSED and not _off(value):
            raise file.refuse(key, value, MERGE)
        if key not in READ | HARMLESS | REFUSED and not _off(value):
            raise file.refuse(key, value, f"no setting of PEFT's that is known here; remove it, or {MERGE}")
    begun = file.raw.get("init_lora_weights")
    if not (begun is None or isinstance(begun, bool) or (isinstance(begun, str) and begun.lower() in BASE_STAYS)):
        raise file.refuse(
            "init_lora_weights", begun, f"it changes the base's weights; save it with PEFT's "
            f"path_initial_model_for_weight_conversion, or {MERGE}"
        )  # fmt: skip


def _off(value: Any) -> bool:
    """PEFT's word for a setting that is not used: 0 is a layer's number."""
    return value is None or value is False or (isinstance(value, list | dict) and not value)
