"""A stage's model folder that is an adapter: trained on, written without its base."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lit_llm.backbone.gathering import in_first, is_sharded
from lit_llm.backbone.huggingface import SavesTokenizer, save_settings
from lit_llm.backbone.lora import TARGETS, adapted, effective_targets
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.backbone.quantized import has_quantized
from lit_llm.backbone.saved_adapters import save_adapter
from lit_llm.errors import UserError
from lit_llm.model_sources.adapters import record_base


def save_adapter_folder(
    folder: str | Path, model: LanguageModel | ScoreModel, tokenizer: SavesTokenizer | None = None, base: str = ""
) -> None:
    """Write the adapters of ``model`` as a model folder: all that ``save_model`` writes but the weights, the adapter as
    PEFT lays it out, and ``base_model.json``.

    Every process of a sharded model calls it. ``base``: what adapter_config.json calls the base; empty: the folder that
    it was read from, in full. Raises UserError where there is neither.
    """
    if not base and model.folder is None:
        raise UserError(
            "stage.lora_merge=false: the base was not read from a folder, so nobody could load the adapter; give the "
            "base's folder (init_from, model, or its name as stage.base_model), or leave stage.lora_merge out"
        )
    folder = Path(folder)

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("model*.safetensors*"):  # it would be taken for the model
            stale.unlink()
        save_settings(folder, model, tokenizer)
        if model.folder is not None:
            record_base(folder, model.folder, "nf4" if has_quantized(model) else None)

    in_first(write) if is_sharded(model) else write()
    save_adapter(folder, model, base or str(model.folder.resolve() if model.folder is not None else base))


def go_on(
    model: LanguageModel | ScoreModel,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    rank_stabilized: bool,
    decomposed: bool,
) -> None:
    """Let the adapters that ``model`` was read with be trained on, as they are.

    Arguments as ``apply_lora``; of several ranks and alphas those of most layers. Raises UserError for a value that is
    not theirs: all but dropout must be.
    """
    layers = adapted(model)
    one = next(iter(layers.values()))
    sizes = Counter((layer.rank, float(layer.alpha)) for layer in layers.values())
    usual_rank, usual_alpha = sizes.most_common(1)[0][0]
    theirs = {name.rpartition(".")[2] for name in layers}
    checks = {
        "lora_rank": (rank, usual_rank),
        "lora_alpha": (float(alpha), usual_alpha),
        "lora_targets": (_in_order(effective_targets(model, targets)[0]), _in_order(theirs)),
        "lora_rslora": (rank_stabilized, one.rank_stabilized),
        "lora_dora": (decomposed, one.lora_magnitude_vector is not None),
    }
    wrong = {name: pair for name, pair in checks.items() if pair[0] != pair[1]}
    if wrong:
        given, right = (", ".join(f"stage.{name}={_word(pair[n])}" for name, pair in wrong.items()) for n in (0, 1))
        raise UserError(
            f"{given}: the stage starts from an adapter, which is trained on as it is: give {right}; or "
            "stage.lora_rank=0 to train all weights, or stage.lora_merge=true in the stage before"
        )
    for layer in layers.values():
        layer.lora_dropout.p = dropout


def _in_order(names: Iterable[str]) -> list[str]:
    """As a layer computes them; a family's own names of transformers behind, by the alphabet."""
    return sorted(set(names), key=lambda name: (TARGETS.index(name) if name in TARGETS else len(TARGETS), name))


def _word(value: object) -> str:
    """As the command line takes it."""
    if isinstance(value, list):
        return f"[{','.join(value)}]"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
