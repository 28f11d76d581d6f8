"""What flows through LitLLM: frozen dataclasses while it is text, named tuples once it is tensors.

Shapes: B rows, T tokens a row, N completions over all prompts of a batch, P prompts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor

IGNORE = -100
"""The label of a position that is not trained (torch's ``ignore_index``)."""

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Document:
    """A text of its own: the unit that attention never leaves."""

    text: str
    source: str = ""  # where it came from, "file:line", for messages to people
    tags: dict[str, str] = field(default_factory=dict, hash=False)  # kept from the data: source (its module), ...


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    trained: bool = True

    def to(self, device: Any) -> Message:  # noqa: ARG002
        """Itself: Lightning moves batches with ``to``, and text is on no device. As below."""
        return self


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation to learn from. Every assistant turn is trained unless ``train_last_only``.

    A task pair is a conversation of one user turn (the source) and one assistant turn (the target).
    """

    messages: tuple[Message, ...]
    source: str = ""
    tags: dict[str, str] = field(default_factory=dict)  # kept from the data: wording, function, task, ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that ends with the user's turn: what a policy answers."""

    messages: tuple[Message, ...]
    source: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def to(self, device: Any) -> Prompt:  # noqa: ARG002
        return self


@dataclass(frozen=True, slots=True)
class Comparison:
    """K completions of one prompt, ranked by one annotator. Rank 1 is best; equal ranks are ties."""

    prompt: tuple[Message, ...]
    completions: tuple[str, ...]
    ranks: tuple[int, ...]
    annotator: str = ""
    weight: float = 1.0
    simulated: bool = False
    source: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    margin: float = 0.0  # by how much the better of each pair must be ahead, in the score's units (nats)
    attacked: bool = False  # the last completion is an attack, which nobody ranked (``data/attacked.py``)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A completion of a prompt that one annotator called good (``label``) or bad: what KTO and classifiers learn."""

    prompt: tuple[Message, ...]
    completion: str
    label: bool
    annotator: str = ""
    weight: float = 1.0
    simulated: bool = False
    source: str = ""
    tags: dict[str, str] = field(default_factory=dict)


class TokenBatch(NamedTuple):
    """Packed or padded rows for next-token prediction. Labels are shifted and masked here, once, for everybody."""

    input_ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64: the token that position t predicts (t + 1 of the same document), or IGNORE
    positions: Tensor  # (B, T) int64: restart at 0 with every document
    segments: Tensor  # (B, T) int64: number of the document within the row, from 0; padding is a segment of its own
    source: Tensor  # (B, T) int64: index of the data source (``DataModule.source_names``), for losses per domain


class RankingBatch(NamedTuple):
    """Completions of P prompts, one row each, right-padded: for reward models and the DPO family."""

    input_ids: Tensor  # (N, T) int64: prompt, completion with its end token, padding
    lengths: Tensor  # (N,) int64: prompt and completion
    prompt_lengths: Tensor  # (N,) int64: the prompt alone; the same prefix for all completions of a prompt
    groups: Tensor  # (N,) int64: which prompt, 0 .. P-1, ascending
    ranks: Tensor  # (N,) int64: 1 is best; equal is a tie
    weights: Tensor  # (P,) float32: the annotator's weight
    margins: Tensor | None = None  # (P,) float32: ``Comparison.margin``; None: 0 for all
    annotators: Tensor | None = None  # (P,) int64: index into ``Preferences.annotators``; None: not known
    attacked: Tensor | None = None  # (N,) bool: an attack, which nobody ranked, and not an answer; None: none is


class LabelledBatch(NamedTuple):
    """N completions with a label each, right-padded. The last two fields are None where no other prompt is known."""

    input_ids: Tensor  # (N, T) int64: prompt, completion with its end token, padding
    lengths: Tensor  # (N,) int64: prompt and completion
    prompt_lengths: Tensor  # (N,) int64: the prompt alone
    labels: Tensor  # (N,) bool: good or bad
    weights: Tensor  # (N,) float32: the annotator's weight
    unrelated_ids: Tensor | None = None  # (N, T') int64: the same prompts with completions of other prompts
    unrelated_lengths: Tensor | None = None  # (N,) int64: prompt and unrelated completion


class PromptBatch(NamedTuple):
    """Prompts to answer, right-padded (generation never pads on the left)."""

    input_ids: Tensor  # (B, T) int64
    lengths: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64: the prompt's number in the data set, to find its text again


class Rollout(NamedTuple):
    """Sampled completions and what scored them. Token tensors are aligned to ``input_ids``; masked places hold 0."""

    input_ids: Tensor  # (B, T) int64: prompt, completion, padding
    prompt_lengths: Tensor  # (B,) int64
    lengths: Tensor  # (B,) int64: prompt and completion, the end token counted
    finished: Tensor  # (B,) bool: the completion ended with an end token (not cut by the limit)
    logps: Tensor  # (B, T-1) float32: log-probability of token t+1 under the sampling policy, at its temperature
    mask: Tensor  # (B, T-1) bool: position t predicts a completion token (end token included)


class Heldout(NamedTuple):
    """A held-out set as plain records, so that any model can be evaluated on it at any time."""

    name: str  # e.g. "general", "domain", "task_pairs", "instructions_wordings"
    kind: Literal["documents", "responses", "rankings", "labels", "flags", "prompts"]
    items: tuple[Any, ...]  # Document, Example, Comparison, Labelled or Prompt

    def to(self, device: Any) -> Heldout:  # noqa: ARG002
        return self
