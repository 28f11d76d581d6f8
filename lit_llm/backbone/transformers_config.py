"""The shape of any causal model of the package transformers, as far as others here ask for it, and its config.json.

Nothing heavy is imported with this file: transformers is an extra, and is imported when a model is asked for by name.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lit_llm.backbone.config_file import ConfigFile
from lit_llm.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTALL = "it is read by transformers, which is not installed: pip install 'lit-llm[transformers]'"
SWITCH = "LIT_LLM_TRUST_REMOTE_CODE"  # in the environment, for commands that have no backbone.trust_remote_code
CONTEXT = 2048  # of a model whose config.json names none
CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "n_ctx", "seq_length")
_WINDOWS = ("window", "chunk_size", "local_attention")  # in the names of settings that say how far attention looks back
_BEFORE_SOFTMAX = {"logit_scale": -1, "lm_head_multiplier": -1, "logits_scaling": 1}  # logits: times, times, divided by
_DROPPED = ("_pdrop", "dropout", "dropout_prob", "dropout_rate", "layerdrop")  # endings of settings
_OF_SUBLAYERS = (
    "resid_pdrop", "embd_pdrop", "residual_dropout", "resid_dropout", "hidden_dropout", "hidden_dropout_prob",
    "embedding_dropout", "embed_dropout", "dropout",
)  # fmt: skip


@dataclass(frozen=True)
class TransformersConfig:
    """A model that transformers computes, by the names that the project's own configuration has for the same.

    Args:
        hidden_size: width of what the head reads.
        settings: all of config.json, as JSON.
        code: the folder whose Python files make the model, where that was allowed; None: transformers' own class.
        prefix: of the weights' names in files, but the head's.
        head: the output layer's name there.
        logit_divisor: logits are divided by it (Cohere's scale, turned over).
    """

    family: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    tie_embeddings: bool
    settings: str
    code: str | None = None
    prefix: str = "model"
    head: str = "lm_head"
    head_bias: bool = False
    logit_divisor: float = 1.0
    logit_softcap: float | None = None
    initializer_range: float = 0.02
    dropout: float = 0.0

    gated_mlp: ClassVar[bool] = True

    @cached_property
    def raw(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.settings)
        return found

    @property
    def window(self) -> int | None:
        """The fewest tokens that any layer looks back; None: all see all."""
        found = [
            value
            for key, value in self.raw.items()
            if any(part in key for part in _WINDOWS) and type(value) is int and value > 0
        ]
        return min(found, default=None)

    @property
    def turns_by_length(self) -> bool:
        """Whether positions turn by frequencies that follow a row's length (dynamic, longrope)."""
        text = json.dumps([self.raw.get("rope_scaling"), self.raw.get("rope_parameters")])
        return '"dynamic"' in text or '"longrope"' in text

    def with_layers(self, count: int) -> TransformersConfig:
        """The shape of the first layers alone."""
        made = self.theirs()
        name = made.attribute_map.get("num_hidden_layers", "num_hidden_layers")
        raw = self.raw | {name: count}
        raw |= {
            key: value[:count]
            for key, value in raw.items()
            if isinstance(value, list) and len(value) == self.num_layers and key != "architectures"
        }
        return dataclasses.replace(self, num_layers=count, settings=json.dumps(raw))

    def theirs(self) -> Any:
        """The configuration as transformers has it, with this vocabulary and this dropout."""
        made = _theirs(self.raw, self.code)
        made.vocab_size = self.vocab_size
        for key, value in made.to_dict().items():
            if key.endswith(_DROPPED) and isinstance(value, int | float) and not isinstance(value, bool):
                setattr(made, key, 0.0)
        if self.dropout:
            names = [key for key in _OF_SUBLAYERS if hasattr(made, key)]
            if not names:
                raise UserError(f"backbone.dropout={self.dropout}: {self.family} has none in transformers; give 0")
            for key in names:
                setattr(made, key, self.dropout)
        return made

    @cached_property
    def _counts(self) -> tuple[int, int, int]:
        """Parameters of the transformer, of the head alone, and of the embedding."""
        import torch

        with torch.device("meta"):
            whole = made(self)
        backbone = {id(each): each.numel() for each in whole.base_model.parameters()}
        every = backbone | {id(each): each.numel() for each in whole.parameters()}
        embedding = whole.get_input_embeddings().weight.numel()
        return sum(backbone.values()), sum(every.values()) - sum(backbone.values()), embedding

    @property
    def num_parameters(self) -> int:
        """Parameters of the language model, a tied embedding counted once."""
        return self._counts[0] + self._counts[1]

    @property
    def backbone_parameters(self) -> int:
        """Parameters without the head."""
        return self._counts[0]

    def flops_per_token(self, seq_len: int) -> float:
        """To train on one token, as ``BackboneConfig.flops_per_token``; every expert counts, chosen or not."""
        looked_up = 0 if self.tie_embeddings else self._counts[2]
        reach = self.num_layers * min(seq_len, self.window or seq_len)
        return 6.0 * (self.num_parameters - looked_up) + 12.0 * self.num_heads * self.head_dim * reach


def shape_of(
    vocab_size: int | None = None, config: str | None = None, trust_remote_code: bool = False, dropout: float = 0.0
) -> TransformersConfig:
    """The shape of a model with random weights: that of ``config``, a model folder or a config.json, with the
    tokenizer's vocabulary. Raises UserError where there is none, or transformers cannot read it."""
    if config is None:
        raise UserError(
            "backbone=transformers: give init_from=FOLDER to train on from a model, or backbone.config=FOLDER for "
            "random weights in the shape of that folder's config.json"
        )
    path = Path(config)
    path = path / "config.json" if path.is_dir() else path
    found = read_shape(path, trust_remote_code)
    # The type of its weights is that folder's, and these are new ones.
    raw = {key: value for key, value in found.raw.items() if key not in ("dtype", "torch_dtype")}
    found = dataclasses.replace(found, settings=json.dumps(raw), dropout=dropout)
    return found if vocab_size is None else dataclasses.replace(found, vocab_size=vocab_size)


def read_shape(path: Path, trust_remote_code: bool = False) -> TransformersConfig:
    """The shape that a config.json describes. Raises UserError for what transformers has no causal model of, and for
    code in the folder without the switch."""
    file = ConfigFile(path)
    code = _code_of(file, trust_remote_code)
    if importlib.util.find_spec("transformers") is None:
        raise UserError(f"{path}: {INSTALL}")
    raw = file.raw
    if raw.get("quantization_config"):
        raise file.refuse("quantization_config", "...", "use the folder of unquantised weights")
    with told_by_file(path):
        config = _theirs(raw, code)
        _refuse_other_kinds(file, config, code)
        return _shape(config, raw, code)


def _shape(config: Any, raw: Mapping[str, Any], code: str | None) -> TransformersConfig:
    import torch
    from torch import nn

    with torch.device("meta"):
        whole = _from_config(config, code)
        whole.tie_weights()
    head, embedding = whole.get_output_embeddings(), whole.get_input_embeddings()
    if not isinstance(head, nn.Linear) or whole.base_model is whole:
        raise UserError(f"model_type={config.model_type!r}: its output layer is no matrix behind a transformer")
    heads = _first(config, ("num_attention_heads", "n_head"), 1)
    width = _first(config, ("hidden_size", "n_embd", "d_model"), head.in_features)
    divisor = 1.0
    for key, power in _BEFORE_SOFTMAX.items():
        if isinstance(value := getattr(config, key, None), int | float) and not isinstance(value, bool) and value:
            divisor *= value**power
    return TransformersConfig(
        family=str(config.model_type),
        vocab_size=embedding.weight.shape[0],
        hidden_size=head.in_features,
        num_layers=_first(config, ("num_hidden_layers", "n_layer"), 1),
        num_heads=heads,
        num_kv_heads=_first(config, ("num_key_value_heads", "num_kv_heads"), heads),
        head_dim=_first(config, ("head_dim",), max(1, width // heads)),
        max_positions=_first(config, CONTEXTS, 0) or next((raw[k] for k in CONTEXTS if raw.get(k)), CONTEXT),
        tie_embeddings=head.weight is embedding.weight,
        settings=json.dumps(raw),
        code=code,
        prefix=whole.base_model_prefix,
        head=next(name for name, module in whole.named_modules() if module is head),
        head_bias=head.bias is not None,
        logit_divisor=divisor,
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        initializer_range=float(getattr(config, "initializer_range", None) or 0.02),
    )


def _first(config: Any, names: tuple[str, ...], default: int) -> int:
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if type(value) is int and value > 0), default)


def made(config: TransformersConfig, head: Literal["language", "score"] = "language") -> Any:
    """The model with random weights, on the device that ``torch.device`` says. Raises UserError where transformers has
    no such class."""
    if head == "language":
        return _from_config(config.theirs(), config.code)
    import transformers

    transformers_: Any = transformers
    theirs, kind = config.theirs(), transformers_.AutoModelForSequenceClassification
    theirs.num_labels = 1
    try:
        whole = kind.from_config(theirs, trust_remote_code=config.code is not None)
    except ValueError:
        whole = None
    if not hasattr(getattr(whole, "score", None), "weight"):
        raise UserError(f"family {config.family} has no reward model in transformers: start it from another family")
    return whole


def _from_config(config: Any, code: str | None) -> Any:
    import transformers

    transformers_: Any = transformers
    return transformers_.AutoModelForCausalLM.from_config(config, trust_remote_code=code is not None)


def _theirs(raw: Mapping[str, Any], code: str | None) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    raw = {key: _number(raw[key]) for key in raw if key not in ("transformers_version", "_name_or_path")}
    if code is not None:
        kept = AutoConfig.from_pretrained(code, trust_remote_code=True, local_files_only=True)
        return type(kept).from_dict({**kept.to_dict(), **raw, "_name_or_path": code})
    return CONFIG_MAPPING[raw["model_type"]].from_dict(raw)


def _number(value: Any) -> Any:
    """A value of config.json, where transformers writes infinity as an object."""
    if isinstance(value, dict):
        return float(value["__float__"]) if set(value) == {"__float__"} else {k: _number(v) for k, v in value.items()}
    return [_number(each) for each in value] if isinstance(value, list) else value


def _code_of(file: ConfigFile, trusted: bool) -> str | None:
    """The folder whose code makes the model; None: transformers' own does. Without the switch it is refused."""
    if not file.raw.get("auto_map"):
        return None
    if trusted or os.environ.get(SWITCH) == "1":
        return str(file.path.parent.resolve())
    raise UserError(
        f"{file.path}: auto_map names Python code of the folder's own, which is run only with "
        f"backbone.trust_remote_code=true ({SWITCH}=1 for other commands): read it first; or take auto_map out, where "
        f"transformers has model_type={file.raw.get('model_type')!r} itself"
    )


def _refuse_other_kinds(file: ConfigFile, config: Any, code: str | None) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as ENCODERS

    kind = config.model_type
    if code is None and kind not in KNOWN:
        raise file.refuse("model_type", kind, "transformers has no causal language model of it")
    named = str((file.raw.get("architectures") or [None])[0])
    writes = named == KNOWN.get(kind) or named.endswith(("ForCausalLM", "LMHeadModel", "ForSequenceClassification"))
    if code is None and kind in ENCODERS and not writes:
        raise file.refuse(
            "architectures", [named],
            "no causal language model but an encoder, in which each token sees those behind it: it writes no text",
        )  # fmt: skip
    if getattr(config, "is_encoder_decoder", False) or config.get_text_config() is not config:
        raise file.refuse("model_type", kind, "give the folder of a language model alone: no encoder, no images")


def or_by_transformers(error: UserError) -> UserError:
    """What is said of a config.json that no family here reads."""
    told = str(error)
    if "is not supported" not in told or "backbone=transformers" in told:
        return error
    return UserError(f"{told}; or let transformers compute it: backbone=transformers")


@contextmanager
def told_by_file(path: Path) -> Iterator[None]:
    """Whatever transformers says of a file becomes one line that names it."""
    try:
        with quiet():
            yield
    except UserError as error:
        text = str(error)
        raise error if text.startswith(str(path.parent)) else UserError(f"{path}: {text}") from None
    except (MemoryError, KeyboardInterrupt):
        raise
    except KeyError as error:
        raise UserError(f"{path}: model_type={error} is not known to the installed transformers") from None
    except Exception as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path}: transformers cannot read it ({type(error).__name__}: {said[:300]})") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own lines and bars."""
    from transformers.utils import logging

    theirs: Any = logging
    verbosity, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()
