"""Low-rank adapters (Hu et al. 2021): train W + s B A with W frozen; merged, or saved in PEFT's layout
(``saved_adapters.py``).

s is alpha / rank, or alpha / sqrt(rank) (rank-stabilised, rsLoRA, Kalajdzievski 2023). Decomposed by weight (DoRA, Liu
et al. 2024, equation 5), each row of W + s B A is scaled to a trained length.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_llm.backbone.config import LINEAR_LAYERS
from lit_llm.backbone.dropout import Dropout
from lit_llm.backbone.layouts import layout_of
from lit_llm.backbone.linear import Linear, is_plain, linear
from lit_llm.backbone.models import LanguageModel, ScoreModel, device_beside
from lit_llm.backbone.quantized import dequantize, dtype_of, whole
from lit_llm.backbone.transformers_config import TransformersConfig
from lit_llm.errors import UserError

TARGETS = LINEAR_LAYERS
START = ("start_A", "start_B", "start_lengths")
ADAPTER = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector", *START)
"""What a layer holds beside its weight: what is trained, and what that began as."""


class LoRALinear(Linear):
    """A linear layer W with an adapter beside it: x W' + s dropout(x) A' B'. B begins at zero: no change. W may be kept
    in 4 bits (QLoRA).

    ``lora_A``: (rank, in). ``lora_B``: (out, rank). ``lora_magnitude_vector``: (out,), the lengths that DoRA trains;
    None: there are none. ``start_A``, ``start_B``, ``start_lengths``: the adapter that training began with, of the same
    shapes (``keep_start``); None: it began with the base alone. Switched off, the layer does what it did then.
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float,
        rank_stabilized: bool = False,
        decomposed: bool = False,
    ) -> None:
        with torch.device("meta"):
            super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.weight, self.bias = base.weight, base.bias
        like = {"device": device_beside(base.weight), "dtype": dtype_of(base.weight)}
        self.rank, self.alpha, self.rank_stabilized = rank, alpha, rank_stabilized
        self.scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, **like)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, **like)
        self.lora_dropout = Dropout(dropout)
        self.enabled = True
        self.add_up: Callable[[Tensor], Tensor] | None = None  # over processes that hold columns of one layer
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)
        lengths = row_lengths(whole(base.weight, dtype_of(base.weight)).detach()) if decomposed else None
        self.lora_magnitude_vector = None if lengths is None else nn.Parameter(lengths)
        for name in START:
            self.register_buffer(name, None)

    def forward(self, input: Tensor) -> Tensor:
        out = linear(input, self.weight, self.bias)
        if self.is_base:
            return out
        left, (down, up, lengths) = self.lora_dropout(input), self._parts()
        change: Tensor = self.scale * F.linear(F.linear(left, down), up)
        if lengths is None:
            return out + change
        # Of what dropout left out the base's part stays: PEFT's, and the paper's where there is no dropout.
        with torch.no_grad(), torch.autocast(input.device.type, enabled=False):  # lengths in the weights' own type
            current = row_lengths(self._changed(down.dtype), self.add_up)
        stretch = lengths / current
        more = (stretch - 1) * linear(left, self.weight, None) + stretch * change
        return out + more.to(out.dtype)

    @property
    def is_base(self) -> bool:
        """Whether it does now what W alone does."""
        return not self.enabled and self.start_A is None

    def _parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """A (rank, in), B (out, rank), lengths (out,): those in training, or where it is switched off the start's."""
        if self.enabled:
            return self.lora_A.weight, self.lora_B.weight, self.lora_magnitude_vector
        return self.start_A, self.start_B, self.start_lengths  # type: ignore[return-value]

    def _changed(self, dtype: torch.dtype) -> Tensor:
        """W + s B A: (out, in)."""
        down, up, _ = self._parts()
        return whole(self.weight, dtype) + self.scale * (up.to(dtype) @ down.to(dtype))

    def whole_weight(self, dtype: torch.dtype, gather: Callable[[Tensor], Tensor] = lambda part: part) -> Tensor:
        """The weight (out, in) of a plain layer that does the same. ``gather``: makes sharded parts whole."""
        down, up, lengths = (None if part is None else gather(part).to(dtype) for part in self._parts())
        assert down is not None and up is not None
        weight = whole(gather(self.weight), dtype) + self.scale * (up @ down)
        return weight if lengths is None else weight * (lengths / row_lengths(weight))[:, None]

    def merged(self) -> nn.Linear:
        """The plain layer with the adapter added into its weight, in float32, then its own dtype. To a weight in 4 bits
        it is added as they stand for: that is what it was trained beside."""
        with torch.device("meta"):
            plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        own = self.lora_A.weight.dtype
        wide = torch.promote_types(own, torch.float32)
        plain.weight = nn.Parameter(self.whole_weight(wide).to(own).detach())
        plain.bias = self.bias
        return plain


def row_lengths(weight: Tensor, add_up: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Of each row of (out, in): (out,); next to 0 for a row of zeros, which stays one when it is divided by this.
    ``add_up``: of squares (out,), over those who hold other columns of these rows."""
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1)
    if add_up is not None:
        lengths = add_up(lengths.square()).sqrt()
    return lengths.clamp_min(max(1e-12, torch.finfo(lengths.dtype).tiny))


def apply_lora(
    model: LanguageModel | ScoreModel,
    rank: int = 16,
    alpha: float = 32,
    dropout: float = 0.05,
    targets: Sequence[str] = TARGETS,
    rank_stabilized: bool = False,
    decomposed: bool = False,
) -> LanguageModel | ScoreModel:
    """Put adapters beside the layers named ``targets``, in place, and freeze everything else; returns the model.

    A score model's head stays trainable: it is new. Raises UserError for a rank below 1, a dropout outside [0, 1), or a
    target that the model has not.
    """
    if rank < 1:
        raise UserError(f"stage.lora_rank={rank}: must be at least 1")
    if not 0 < alpha < math.inf:
        raise UserError(f"stage.lora_alpha={alpha}: must be above 0")
    if not 0 <= dropout < 1:
        raise UserError(f"stage.lora_dropout={dropout}: must be at least 0 and below 1")
    targets, known = effective_targets(model, targets)
    if not known:
        raise UserError(f"stage.lora_rank={rank}: {model.config.family} has no nn.Linear in transformers to adapt")
    chosen = [name for name, module in model.named_modules() if _is_target(name, module, targets)]
    found = {name.rpartition(".")[2] for name in chosen}
    if not targets or found != set(targets):
        unknown = sorted(set(targets) - found) or list(targets)
        raise UserError(f"stage.lora_targets: {unknown} not in the model; use some of {', '.join(known)}")
    for parts in layout_of(model.config).fused.values() if decomposed else ():
        names = {part.rpartition(".")[2] for part in parts}
        if names & found and not names <= found:
            raise UserError(
                f"stage.lora_dora: {', '.join(sorted(names))} are one matrix in the files; adapt all or none"
            )
    put_adapters(model, dict.fromkeys(chosen, (rank, alpha)), dropout, rank_stabilized, decomposed)
    return model


def put_adapters(
    model: LanguageModel | ScoreModel,
    layers: Mapping[str, tuple[int, float]],
    dropout: float,
    rank_stabilized: bool,
    decomposed: bool,
) -> None:
    """Put an adapter beside each of ``layers``, in place, and freeze everything else but a score model's head.
    ``layers``: names of modules to rank and alpha."""
    if adapted(model):
        raise ValueError("the model has adapters already: merge_lora first")
    model.requires_grad_(False)
    for name, (rank, alpha) in layers.items():
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        model.set_submodule(
            name, LoRALinear(base, rank, alpha, dropout, rank_stabilized, decomposed).train(base.training)
        )
    if isinstance(model, ScoreModel):
        model.score.requires_grad_(True)


def effective_targets(model: LanguageModel | ScoreModel, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of layers that ``targets`` means in this model, and of all that can have an adapter, sorted.

    ``TARGETS``, the default, means all that there are: of a family of transformers those of its own layers. Raises
    UserError for a layer asked for whose class computes something of its own: an adapter beside it would replace that.
    """
    parts = {name: each for name, each in model.named_modules() if _is_linear(name, each)}
    own = {name.rpartition(".")[2]: type(each).__name__ for name, each in parts.items() if not is_plain(each)}
    if tuple(targets) != TARGETS and (wrong := sorted(own.keys() & set(targets))):
        raise UserError(
            f"stage.lora_targets: {wrong[0]} is a layer of the class {own[wrong[0]]}, which computes something else "
            "than nn.Linear: leave it out"
        )
    known = sorted({name.rpartition(".")[2] for name in parts} - own.keys())
    if not isinstance(model.config, TransformersConfig):
        known = [name for name in TARGETS if name != "gate_proj" or model.config.gated_mlp]
    return (known if tuple(targets) == TARGETS else sorted(targets)), known


def _is_target(name: str, module: nn.Module, targets: Sequence[str]) -> bool:
    return _is_linear(name, module) and name.rpartition(".")[2] in targets


def _is_linear(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and name.startswith("backbone.") and ".lora_" not in name


def linear_layers(model: LanguageModel | ScoreModel) -> list[str]:
    """The names of all layers that an adapter may stand beside, of a family of transformers those too that compute
    something of their own."""
    found = [name for name, module in model.named_modules() if _is_linear(name, module)]
    if isinstance(model.config, TransformersConfig):
        return found
    return [name for name in found if name.rpartition(".")[2] in TARGETS]


def adapted(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers with an adapter, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


@torch.no_grad()
def merge_lora(model: LanguageModel | ScoreModel) -> LanguageModel | ScoreModel:
    """Add the adapters into the weights, in place, and make everything trainable; returns the model, now a plain one.

    To keep on training the adapters, merge a ``copy.deepcopy``.
    """
    for name in list(adapted(model)):  # a layer at a time: the old one is let go before the next is made
        layer = model.get_submodule(name)
        assert isinstance(layer, LoRALinear)
        model.set_submodule(name, layer.merged().train(layer.training))
    dequantize(model, model.backbone.embed_tokens.weight.dtype)  # layers that had no adapter
    return model.requires_grad_(True)


def keep_start(model: LanguageModel | ScoreModel) -> None:
    """The adapters as they are now are what the model is, from here on, where they are switched off: a copy of them."""
    for layer in adapted(model).values():
        for name, part in zip(START, layer._parts(), strict=True):
            setattr(layer, name, None if part is None else part.detach().clone())


def has_start(model: nn.Module) -> bool:
    """Whether a start was kept."""
    return any(layer.start_A is not None for layer in adapted(model).values())


@torch.no_grad()
def without_adapters(model: LanguageModel | ScoreModel) -> LanguageModel | ScoreModel:
    """A copy of what training began with: what the adapters stand beside, or that with the adapter that was kept."""
    found = copy.deepcopy(model)
    with lora_disabled(found):
        for name, layer in adapted(found).items():
            with torch.device("meta"):
                plain = Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plain.weight, plain.bias = layer.weight if layer.is_base else layer.merged().weight, layer.bias
            found.set_submodule(name, plain.train(layer.training))
    return found


@contextmanager
def lora_disabled(model: nn.Module) -> Iterator[None]:
    """Within, the model is what it was at the start, the base or that with the adapter kept then: the reference of DPO
    and PPO without a second copy."""
    layers = adapted(model).values()
    before = [layer.enabled for layer in layers]
    try:
        for layer in layers:
            layer.enabled = False
        yield
    finally:
        for layer, enabled in zip(layers, before, strict=True):
            layer.enabled = enabled
