"""What reads the hidden states: a language model's vocabulary, or the one number of a reward or value model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_llm.backbone import quantized
from lit_llm.backbone.config import BackboneConfig
from lit_llm.backbone.transformer import Transformer
from lit_llm.backbone.transformers_config import TransformersConfig
from lit_llm.errors import UserError
from lit_llm.records import PackedCompletions
from lit_llm.runtime.shared_tensors import local


@dataclass(frozen=True)
class StoredDtypes:
    """The types in which a folder keeps its weights, whatever they are computed in: ``main`` as its config.json says,
    ``tensors`` by their names in the files."""

    main: torch.dtype
    tensors: Mapping[str, torch.dtype] = field(default_factory=dict)

    def of(self, name: str) -> torch.dtype:
        """A new tensor gets the main one."""
        return self.tensors.get(name, self.main)


Shape = BackboneConfig | TransformersConfig


def transformer_of(config: Shape) -> nn.Module:
    """The project's own transformer, or one of the package transformers, by whose configuration it is."""
    if not isinstance(config, TransformersConfig):
        return Transformer(config)
    from lit_llm.backbone.transformers_network import TransformersNetwork

    return TransformersNetwork(config)


class LanguageModel(nn.Module):
    """Transformer and vocabulary head. ``forward`` stops at the hidden states, so that a loss may cut the vocabulary
    product into chunks; ``logits`` goes on."""

    stored: StoredDtypes | None = None  # of the folder that it was read from and is written as; None: as it is
    folder: Path | None = None  # the folder whose weights these are, or are the base of its adapters
    drawn_from: Tensor | None = None  # the random state that begins weights which are on "meta" still; None: a folder's
    gathered_head: Callable[[Tensor], Tensor] | None = None  # makes it whole where processes hold rows of it
    came_whole: tuple[str, ...] = ()  # of embedding and head, what came with the adapter in the base's place

    def __init__(self, config: Shape) -> None:
        super().__init__()
        self.config: Any = config
        self.backbone: Any = transformer_of(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.hidden_scale = 1 / config.logit_divisor
        nn.init.normal_(self.lm_head.weight, std=config.initializer_range)
        if self.lm_head.bias is not None:
            nn.init.zeros_(self.lm_head.bias)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let head and embedding be one parameter, where the configuration says so."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embed_tokens.weight

    @property
    def output_weight(self) -> Tensor:
        """(V, D), D as of the hidden states. A bias of the head is its last column, beside states that end in 1."""
        weight: Tensor = self.lm_head.weight
        bias: Tensor | None = self.lm_head.bias
        if self.gathered_head is not None:
            weight, bias = self.gathered_head(weight), None if bias is None else self.gathered_head(bias)
        return weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)

    @property
    def logit_softcap(self) -> float | None:
        """Products with ``output_weight`` are no logits yet where it is c: these are c tanh(product / c)."""
        cap: float | None = self.config.logit_softcap
        return cap

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        branches: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D), as the head reads them; arguments as ``Transformer.forward``."""
        hidden: Tensor = self.backbone(input_ids, positions, segments, branches)
        return self._for_head(hidden)

    def before_completions(self, completions: PackedCompletions) -> Tensor:
        """The hidden states (M, D) that foresee the completions' tokens."""
        return self._for_head(_at(_hidden(self.backbone, completions), completions.before))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)"""
        plain = self.lm_head.bias is None and self.gathered_head is None
        scores: Tensor = self.lm_head(hidden) if plain else F.linear(hidden, self.output_weight)
        if self.logit_softcap is None:
            return scores
        return self.logit_softcap * torch.tanh(scores / self.logit_softcap)

    def _for_head(self, hidden: Tensor) -> Tensor:
        """Logits are divided here, where they are few numbers (Granite)."""
        if self.lm_head.bias is not None:
            return F.pad(hidden, (0, 1), value=1.0)
        return hidden if self.hidden_scale == 1.0 else hidden * self.hidden_scale

    def num_parameters(self) -> int:
        return count_parameters(self)


class ScoreModel(nn.Module):
    """Transformer and one linear number per position: reward model (last token's score), value function, or, where
    ``label`` names a class, a classifier whose score is the logit of that class."""

    reward_mean: Tensor
    reward_std: Tensor
    label: str | None = None  # what a classifier tells; None: the score is a reward
    threshold: float = 0.5  # the probability from which on a classifier says so
    stored: StoredDtypes | None = None  # as a language model's
    folder: Path | None = None
    drawn_from: Tensor | None = None
    came_whole: tuple[str, ...] = ()

    def __init__(self, config: Shape) -> None:
        super().__init__()
        self.config: Any = config
        self.backbone: Any = transformer_of(config)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)
        # Stiennon et al. 2020's code: a variance of 1/(D+1) lets scores begin near unit scale.
        nn.init.normal_(self.score.weight, std=(config.hidden_size + 1) ** -0.5)
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_std", torch.ones(()))

    @classmethod
    def from_language_model(cls, model: LanguageModel) -> ScoreModel:
        """A score model on a copy of ``model``'s transformer, with a fresh head, on the same device and dtype."""
        with torch.device("meta"):
            score_model = cls(model.config)
        score_model.backbone = copy.deepcopy(model.backbone)
        score_model.stored, score_model.folder = model.stored, model.folder
        score_model.drawn_from = model.drawn_from
        score_model.came_whole = tuple(name for name in model.came_whole if name != "lm_head")
        weight = model.backbone.embed_tokens.weight
        device = device_beside(weight)
        score_model.score = nn.Linear(model.config.hidden_size, 1, bias=False, device=device, dtype=weight.dtype)
        nn.init.normal_(score_model.score.weight, std=(model.config.hidden_size + 1) ** -0.5)
        score_model.reward_mean = torch.zeros((), device=device)
        score_model.reward_std = torch.ones((), device=device)
        return score_model

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Normalised score of each right-padded row at its last valid token: (B, T), (B,) -> (B,) float32."""
        hidden = self.backbone(input_ids)
        last = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
        return (self._read(last) - self.reward_mean) / self.reward_std

    def score_completions(self, completions: PackedCompletions) -> Tensor:
        """As ``forward``, of packed completions: (N,) float32."""
        last = _at(_hidden(self.backbone, completions), completions.last)
        return ((self._read(last) - self.reward_mean) / self.reward_std)[completions.completion]

    def completion_values(self, completions: PackedCompletions) -> tuple[Tensor, Tensor]:
        """The value of the state before each completion token (M,), and of that after the last one (N,), in the unit of
        the normalised score."""
        values = (self._read(_hidden(self.backbone, completions)) - self.reward_mean) / self.reward_std
        before, last = (_at(values[:, None], places).squeeze(1) for places in (completions.before, completions.last))
        return before, last[completions.completion]

    def values(self, input_ids: Tensor) -> Tensor:
        """Score at every position of rows (B, T), not normalised: (B, T) float32."""
        return self._read(self.backbone(input_ids))

    def num_parameters(self) -> int:
        return count_parameters(self)

    def _read(self, hidden: Tensor) -> Tensor:
        # In float32 even under autocast: bfloat16 would round a score of 5 to steps of 0.03.
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), local(self.score.weight).float()).squeeze(-1)


def _hidden(backbone: nn.Module, completions: PackedCompletions) -> Tensor:
    """Hidden states (R T, D), by place."""
    rows = completions
    hidden: Tensor = backbone(rows.input_ids, rows.positions, rows.segments, branches=rows.branches)
    return hidden.flatten(0, 1)


def _at(rows: Tensor, places: Tensor) -> Tensor:
    """The rows (N, D) at places (M,): (M, D).

    Completions share the place that foresees their first tokens. The gradients that meet there are added in one order,
    whatever the threads do: those of ``rows[places]`` are added by atomic operations on a CPU, in the order that the
    threads come, and training would not be the same twice (and it takes five times as long).
    """
    return F.embedding(places, rows)


def device_beside(weight: Tensor) -> torch.device:
    """Where new weights go beside this one: those that are on "meta" are read later, new ones are made now."""
    return torch.device("cpu") if weight.is_meta else weight.device


def count_parameters(model: nn.Module) -> int:
    """Parameters, shared ones once."""
    return sum(map(quantized.size_of, model.parameters()))


@torch.no_grad()
def grow_vocabulary(model: LanguageModel | ScoreModel, new_size: int) -> None:
    """Add tokens in place; their rows in embedding and head are the mean of the old rows (Hewitt 2021), so that a new
    token begins neither likelier nor unlikelier than the average old one. Raises UserError if ``new_size`` is smaller.
    """
    old = model.config.vocab_size
    if new_size < old:
        raise UserError(f"vocabulary of {new_size} tokens is smaller than the model's {old}: rows cannot be taken away")
    if new_size == old:
        return
    embedding = model.backbone.embed_tokens
    embedding.weight = nn.Parameter(_grown(embedding.weight, new_size), embedding.weight.requires_grad)
    embedding.num_embeddings = new_size
    model.config = model.backbone.config = dataclasses.replace(model.config, vocab_size=new_size)
    if isinstance(model, LanguageModel):
        model.lm_head.out_features = new_size
        if not model.config.tie_embeddings:
            model.lm_head.weight = nn.Parameter(_grown(model.lm_head.weight, new_size))
        if model.lm_head.bias is not None:
            model.lm_head.bias = nn.Parameter(_grown(model.lm_head.bias[:, None], new_size)[:, 0])
        model.tie_weights()


def _grown(weight: Tensor, rows: int) -> Tensor:
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - len(weight), -1)])
