"""A reward that is a function of one's own, by its dotted path."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from lit_llm.errors import UserError
from lit_llm.records import Message
from lit_llm.rewards.base import Reward, as_reward
from lit_llm.rewards.options import FunctionOptions


class FunctionReward(Reward):
    """Calls ``module.function(prompts, completions)``: conversations and texts in, one number each out.

    A function with a parameter ``rows`` also gets what the data says of each prompt (its tags), such as the answer to a
    problem. NaN says that an answer could not be verified. Options:
    ``FunctionOptions``.
    """

    Options: ClassVar[type[FunctionOptions]] = FunctionOptions

    def __init__(self, options: FunctionOptions | None = None, **values: Any) -> None:
        self.options = FunctionOptions.of(options, values)
        self.path = self.options.function
        self.function = find(self.path)
        self.row_fields = _takes_rows(self.function)

    def __call__(
        self,
        prompts: Sequence[Sequence[Message]],
        completions: Sequence[str],
        rows: Sequence[Mapping[str, str]] | None = None,
    ) -> list[float]:
        """Scores (B,). Raises UserError where the function fails or does not give one number for each answer."""
        scores: list[float] = []
        size = self.options.batch_size or max(1, len(completions))
        for start in range(0, len(completions), size):
            part = slice(start, start + size)
            extra = {"rows": list(rows or [{}] * len(completions))[part]} if self.row_fields else {}
            scores += self._called(prompts[part], completions[part], extra)
        return scores

    def _called(
        self, prompts: Sequence[Sequence[Message]], completions: Sequence[str], extra: dict[str, Any]
    ) -> list[float]:
        try:
            given = self.function(prompts, completions, **extra)
        except Exception as error:
            raise UserError(f"reward.function={self.path}: failed ({_told(error)})") from error
        try:
            scores = [float(score) for score in given]
        except (TypeError, ValueError):
            kind = type(given).__name__
            raise UserError(f"reward.function={self.path}: gave a {kind}; a number for each answer is needed") from None
        if len(scores) != len(completions):
            raise UserError(f"reward.function={self.path}: gave {len(scores)} numbers for {len(completions)} answers")
        return scores


def find(path: str) -> Callable[..., Any]:
    """The function at a dotted path. Raises UserError for none, or for what cannot take prompts and completions."""
    module, _, name = path.rpartition(".")
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a user's module may do anything
        raise UserError(f"reward.function={path}: {_told(error)}; give module.function") from error
    try:
        function = getattr(found, name)
    except AttributeError as error:
        raise UserError(f"reward.function={path}: {error}; give module.function") from None
    if not callable(function) or inspect.isclass(function):
        what = "class" if inspect.isclass(function) else type(function).__name__
        raise UserError(f"reward.function={path}: a {what}; give a function of (prompts, completions)")
    try:
        inspect.signature(function).bind([], [], **({"rows": []} if _takes_rows(function) else {}))
    except TypeError:
        raise UserError(
            f"reward.function={path}: takes {inspect.signature(function)}; it is called with (prompts, completions)"
        ) from None
    except ValueError:  # a built-in function that tells no signature
        pass
    return function  # type: ignore[no-any-return]


def _told(error: BaseException) -> str:
    """An error of the user's code in one line: its type, what it says, and the file and line that it is of."""
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if isinstance(error, SyntaxError):  # it says where itself
        return what if error.filename is None else f"{what}, {error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    return f"{what}, {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else what


def _takes_rows(function: Callable[..., Any]) -> bool:
    try:
        return "rows" in inspect.signature(function).parameters or as_reward(function).row_fields
    except ValueError:
        return False
