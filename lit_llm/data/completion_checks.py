"""What completions must be, whatever was said of them, and what the model that reads them must hold."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lit_llm.backbone.config import BackboneConfig
from lit_llm.errors import UserError
from lit_llm.records import PackedCompletions, TokenRow


def check_rows(rows: Sequence[TokenRow], what: str) -> None:
    """Raises UserError for a completion or a prompt without a token, naming it as one of ``what`` ("rankings")."""
    for number, (prompt, completion) in enumerate(rows):
        if not len(completion):
            raise UserError(f"{what}: completion {number} of the batch has no token; answer something or leave it out")
        if not len(prompt):
            raise UserError(f"{what}: the prompt of completion {number} of the batch has no token")


def check_fits(completions: PackedCompletions, config: BackboneConfig, what: str) -> None:
    """Raises UserError where the vocabulary or the context of a model does not hold them. The device is not asked."""
    (smallest, largest), longest = completions.host.vocabulary, completions.longest
    if largest >= config.vocab_size or smallest < 0:
        raise UserError(f"{what}: token {largest}; the model's vocabulary has {config.vocab_size}")
    if longest > config.max_positions:
        raise UserError(f"{what}: a completion ends at token {longest}; the model reads up to {config.max_positions}")


def refuse_numbers(values: Tensor, whose: str, name: str) -> None:
    """Raises UserError for the first of ``values`` (N,) that is negative or not finite."""
    bad = first(~(values >= 0) | ~values.isfinite())
    if bad is not None:
        raise UserError(f"{whose} {bad} of the batch has {name} {float(values[bad])}; must be 0 or more")


def first(wrong: Tensor) -> int | None:
    """The first true place."""
    places = wrong.nonzero()
    return int(places[0]) if len(places) else None
