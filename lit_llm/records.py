"""What flows through LitLLM: frozen dataclasses while it is text, named tuples once it is tensors.

Shapes: B rows, T tokens a row, N completions over all prompts of a batch, P prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

IGNORE = -100
"""The label of a position that is not trained (torch's ``ignore_index``)."""

Role = Literal["system", "user", "assistant", "tool", "tools"]
"""``tool``: a tool's result. ``tools``: no turn, but the tools that a conversation may call, before all its turns."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text of its own: the unit that attention never leaves."""

    text: str
    source: str = ""  # where it came from, "file:line", for messages to people
    tags: dict[str, str] = field(default_factory=dict, hash=False)  # kept from the data: source (its module), ...
    parts: tuple[tuple[int, str], ...] = ()  # (character, name) of where its pages, sections, sheets or slides begin
    file: str = field(default="", compare=False, repr=False)  # that it was read from; here and below


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that an assistant calls."""

    name: str
    arguments: str = "{}"  # a JSON object
    id: str = ""  # what its result names it by

    @property
    def said(self) -> tuple[str, ...]:
        """Keys and values of the arguments, without JSON's escapes; what is no JSON as it stands."""
        try:
            return tuple(_leaves(json.loads(self.arguments)))
        except (ValueError, RecursionError):
            return (self.arguments,)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield str(key)
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    else:
        yield value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; with the role ``tools`` its content is a JSON list of what can be called (names, schemas)."""

    role: Role
    content: str
    trained: bool = True
    thoughts: str = ""  # an assistant's reasoning before its text, where it stands apart from the content
    calls: tuple[ToolCall, ...] = ()  # what an assistant calls behind its text
    name: str = ""  # who speaks, or which tool
    call_id: str = ""  # of the call that a tool's result answers

    @property
    def plain(self) -> bool:
        """Whether role and content say all."""
        return not (self.thoughts or self.calls or self.name or self.call_id) and not self.role.startswith("tool")

    @property
    def texts(self) -> tuple[str, ...]:
        """All that it says: thoughts, content, and of each call the name and the texts and numbers in its arguments."""
        calls = (part for call in self.calls for part in (call.name, *call.said))
        return tuple(text for text in (self.thoughts, self.content, *calls) if text)

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
    file: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that ends with the user's turn: what a policy answers."""

    messages: tuple[Message, ...]
    source: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    file: str = field(default="", compare=False, repr=False)

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
    file: str = field(default="", compare=False, repr=False)


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
    file: str = field(default="", compare=False, repr=False)


class TokenBatch(NamedTuple):
    """Packed or padded rows for next-token prediction. Labels are shifted and masked here, once, for everybody."""

    input_ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64: the token that position t predicts (t + 1 of the same document), or IGNORE
    positions: Tensor  # (B, T) int64: restart at 0 with every document
    segments: Tensor  # (B, T) int64: number of the document within the row, from 0; padding is a segment of its own
    source: Tensor  # (B, T) int64: index of the data source (``DataModule.source_names``), for losses per domain


TokenRow = tuple[NDArray[np.int64], NDArray[np.int64]]
"""A prompt's tokens, and those of a completion with its end token."""


class HostRows:
    """What the host knows of packed completions, so that nobody waits for the device to ask for it. A class of no kind
    that a loader or Lightning looks into: they would make tensors of it and move them.
    """

    def __init__(self, rows: tuple[TokenRow, ...], keys: NDArray[np.uint8], vocabulary: tuple[int, int]) -> None:
        self.rows = rows  # N: what was packed
        self.keys = keys  # (N, 16): BLAKE2 of prompt and completion, and of where the prompt ends
        self.vocabulary = vocabulary  # the smallest token and the largest


class PackedCompletions(NamedTuple):
    """N completions in R rows of T tokens, made by ``backbone.completions.pack``: a prompt is read once, with its
    completions as branches behind it. U completions are unlike each other, with M tokens in all.

    Places count through all rows, from 0 to R T - 1: they index ``hidden.flatten(0, 1)``.
    """

    host: HostRows
    input_ids: Tensor  # (R, T) int64
    positions: Tensor  # (R, T) int64: of each token behind its prompt's first one
    segments: Tensor  # (R, T) int64: number of the prompt within the row; padding is a segment of its own
    branches: Tensor | None  # (R, T) int64: 0 in a prompt, else which of its completions; None: each has but one
    completion: Tensor  # (N,) int64: which of the U completions each of the N is
    sizes: Tensor  # (N,) int64: tokens of each completion
    last: Tensor  # (U,) int64: place of each completion's last token
    owners: Tensor  # (M,) int64: the completion of each completion token, 0 .. U-1, ascending
    steps: Tensor  # (M,) int64: number of the token within its completion, from 0
    before: Tensor  # (M,) int64: the place that foresees it
    targets: Tensor  # (M,) int64: the token itself

    @property
    def rows(self) -> tuple[TokenRow, ...]:
        return self.host.rows

    @property
    def tokens(self) -> int:
        """Of all N completions, each with its prompt."""
        return sum(len(prompt) + len(completion) for prompt, completion in self.rows)

    @property
    def longest(self) -> int:
        """Tokens of the longest completion with its prompt."""
        return max(len(prompt) + len(completion) for prompt, completion in self.rows)

    def sums(self, values: Tensor) -> Tensor:
        """Values of the completions' tokens (M,) summed over each of the N completions: (N,)."""
        return values.new_zeros(len(self.last)).index_add(0, self.owners, values)[self.completion]

    def matrix(self, values: Tensor, width: int) -> Tensor:
        """The same as rows (N, width) from each completion's first token on, 0 behind its last."""
        return values.new_zeros(len(self.last), width).index_put((self.owners, self.steps), values)[self.completion]

    def to(self, device: Any) -> PackedCompletions:
        parts = (part.to(device, non_blocking=True) if isinstance(part, Tensor) else part for part in self)
        return PackedCompletions(*parts)  # type: ignore[arg-type]


class Attacks(NamedTuple):
    """Which of a batch's completions are attacks, that nobody ranked, kept apart from what people said."""

    answers: Tensor  # (N',) int64: the N' completions that people ranked
    pairs: Tensor  # (2, M') int64: ``RankingBatch.pairs`` of those alone, numbered among them
    below: Tensor  # (2, L) int64: an answer and its prompt's attack, numbered among all


class RankingBatch(NamedTuple):
    """Completions of P prompts, ranked: for reward models and the DPO family. Made by ``data.ranking_rows``."""

    completions: PackedCompletions  # N
    groups: Tensor  # (N,) int64: which prompt, 0 .. P-1, ascending
    ranks: Tensor  # (N,) int64: 1 is best; equal is a tie
    weights: Tensor  # (P,) float32: the annotator's weight
    pairs: Tensor  # (2, M) int64: the better and the worse of every two of a prompt with different ranks
    margins: Tensor | None = None  # (P,) float32: ``Comparison.margin``; None: 0 for all
    annotators: Tensor | None = None  # (P,) int64: index into ``Preferences.annotators``; None: not known
    attacks: Attacks | None = None  # None: there are none


class LabelledBatch(NamedTuple):
    """N completions with a label each. Made by ``data.labelled_answers``."""

    completions: PackedCompletions  # N
    labels: Tensor  # (N,) bool: good or bad
    weights: Tensor  # (N,) float32: the annotator's weight
    good: Tensor  # (G,) int64: the good ones
    bad: Tensor  # (N - G,) int64: the others
    unrelated: PackedCompletions | None = None  # N prompts with completions of other prompts; None: none is known


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
