"""What a reward is: the one face that evaluation, the validation of rewards and the on-policy stages know.

It stands here because evaluation is the lowest room that calls rewards; ``lit_llm.rewards`` has the package's own, and
``lit_llm.rewards.base`` gives the names of this file to whoever writes another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from lit_llm.backbone.models import ScoreModel
from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.text.tokenizer import Tokenizer

Prompts = Sequence[Sequence[Message]]
Rows = Sequence[Mapping[str, str]]


class Reward:
    """Scores answers to prompts: B conversations and B texts in, B numbers out.

    A subclass defines ``__call__``, or ``score_tokens``, or both; all else has a default. One that is a network derives
    from ``nn.Module`` first, ``class Mine(nn.Module, Reward)``, and defines ``forward``. Its submodules must not have
    the names that stand here (``parts``): torch finds a submodule only where the class has nothing of its name.

    What a user brings need not derive from it: ``as_reward`` gives it this face.
    """

    row_fields: bool = False
    """Whether it is called with ``rows``: what the data says of each prompt besides its text (``Prompt.tags``)."""

    tag: str | None = None
    """The tag that ``rows`` must have for an answer to be verified; None: none is needed. Read with ``row_fields``."""

    latest: Mapping[str, Any] = MappingProxyType({})
    """{name: scores (B,)} of its last call, logged beside the score: the parts of a sum, before their weights."""

    parts: Mapping[str, Reward] = MappingProxyType({})
    """{name: reward} that ``combine`` makes one score of. Each part reads answers in its own way."""

    folders: tuple[str, ...] = ()
    """Folders of the reward models in it, whose validation is asked for before a policy learns from them; a rule has
    none."""

    # What gives scores

    def __call__(self, prompts: Prompts, completions: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        """``reward(prompts, completions)``, with ``rows=`` where ``row_fields`` says so.

        Args:
            prompts: B conversations, each a sequence of messages.
            completions: B texts, one answer to each.
            rows: B mappings, the tags of each prompt.

        Returns B numbers: a list, an array or a tensor (B,). NaN: the answer could not be verified. Raises UserError
        where it cannot score.
        """
        raise NotImplementedError(f"{type(self).__name__}: define __call__; an nn.Module stands before Reward")

    def score_tokens(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B,) of right-padded rows (B, T), prompt and answer with its end token; ``lengths`` (B,) of both.

        Where it is defined, what was sampled is scored as sampled, not decoded and tokenised again. Raises UserError
        for a row that it cannot read.
        """
        raise NotImplementedError(f"{type(self).__name__}: reads texts")

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """One score (B,) of those (B,) of each of the ``parts``; keeps them as ``latest``."""
        raise NotImplementedError(f"{type(self).__name__}: has no parts")

    @property
    def reads_tokens(self) -> bool:
        """Whether ``score_tokens`` is defined."""
        return type(self).score_tokens is not Reward.score_tokens

    def score_texts(self, prompts: Prompts, completions: Sequence[str], rows: Callable[[], Rows]) -> Any:
        """Calls the reward; ``rows`` gives the rows, and is asked only where the reward takes them."""
        return self(prompts, completions, rows=rows()) if self.row_fields else self(prompts, completions)

    # What it is made of, and what it can read

    @property
    def vocab_size(self) -> int | None:
        """The vocabulary of its own network, which the policy must share; None: it has none, or checks otherwise."""
        return None

    def check_tokenizer(self, tokenizer: Tokenizer | None) -> None:
        """Raises UserError unless the policy's tokens mean the same to the reward. None: the policy has none."""

    def contexts(self) -> list[tuple[Tokenizer, int]]:
        """(tokenizer, most tokens of prompt and answer together) of each reward model in it; none: not known."""
        return [one for part in self.parts.values() for one in part.contexts()]

    def score_models(self) -> list[ScoreModel]:
        """The networks in it that give a score: reward models, and classifiers of flags (which have a ``label``)."""
        return [one for one in self.modules() if isinstance(one, ScoreModel)] if isinstance(self, nn.Module) else []

    def described(self) -> str:
        """What messages call it: the name of its class."""
        return type(self).__name__


def as_reward(given: Any, name: str = "reward") -> Reward:
    """``given`` with the face of a reward: itself where it is one, else an adapter around it.

    Call it once where a reward comes in. What comes in may be a function, an object that can be called or has
    ``score_tokens``, or an nn.Module, with as many of ``Reward``'s attributes as it likes.

    Raises UserError, with ``name`` before it, for what can do neither.
    """
    if not (callable(given) or hasattr(given, "score_tokens")):
        raise UserError(f"{name}: {type(given).__name__} cannot be called; see conf/reward/")
    return _adapted(given)


def _adapted(given: Any) -> Reward:
    if isinstance(given, Reward):
        return given
    return AdaptedNetwork(given) if isinstance(given, nn.Module) else Adapted(given)


class Adapted(Reward):
    """A user's own callable as a ``Reward``. Its attributes are read anew each time: a call may change them."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.given = given

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.given(*args, **kwargs)

    def score_tokens(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        found: Tensor = self.given.score_tokens(input_ids, lengths)
        return found

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = self.given.combine(scores)
        return found

    @property
    def row_fields(self) -> bool:  # type: ignore[override]
        return bool(getattr(self.given, "row_fields", False))

    @property
    def tag(self) -> str | None:  # type: ignore[override]
        return getattr(self.given, "tag", None)

    @property
    def latest(self) -> Mapping[str, Any]:  # type: ignore[override]
        return getattr(self.given, "latest", {})

    @property
    def parts(self) -> Mapping[str, Reward]:  # type: ignore[override]
        # Without ``combine`` they are something else of the user's that has this name.
        found = self._inner() if hasattr(self.given, "combine") else {}
        return {name: as_reward(part, f"reward.parts.{name}") for name, part in found.items()}

    @property
    def folders(self) -> tuple[str, ...]:  # type: ignore[override]
        if getattr(self.given, "validated", False):  # says of its one ``folder`` that a validation lies there
            return (str(self.given.folder),)
        return tuple(getattr(self.given, "folders", ()))

    @property
    def model(self) -> Any:
        """Its network, None where it has none."""
        return getattr(self.given, "model", None)

    @property
    def reads_tokens(self) -> bool:
        return hasattr(self.given, "score_tokens")

    @property
    def vocab_size(self) -> int | None:
        return getattr(getattr(self.model, "config", None), "vocab_size", None)

    def check_tokenizer(self, tokenizer: Tokenizer | None) -> None:
        if hasattr(self.given, "check_tokenizer"):
            self.given.check_tokenizer(tokenizer)

    def contexts(self) -> list[tuple[Tokenizer, int]]:
        config, tokenizer = getattr(self.model, "config", None), getattr(self.given, "tokenizer", None)
        found = [] if config is None or tokenizer is None else [(tokenizer, config.max_positions)]
        inner = [*self._inner().values(), *getattr(self.given, "members", ())]
        return found + [one for part in inner for one in _adapted(part).contexts()]

    def score_models(self) -> list[ScoreModel]:
        return super().score_models() or ([self.model] if isinstance(self.model, ScoreModel) else [])

    def described(self) -> str:
        return type(self.given).__name__

    def _inner(self) -> Mapping[str, Any]:
        found = getattr(self.given, "parts", None)
        return found if isinstance(found, Mapping) else {}


class AdaptedNetwork(Adapted, nn.Module):
    """The same around an nn.Module: who owns it moves it to a device and freezes it as any submodule."""
