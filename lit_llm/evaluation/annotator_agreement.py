"""Whether the annotators of a pair agree: a model may be expected to be right where they do."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence


def unanimous(pairs: Sequence[Hashable], orders: Iterable[int], annotators: Iterable[Hashable]) -> list[bool | None]:
    """For each of M judgements of a pair of completions: do all annotators of that pair order it alike?

    Args:
        pairs: which pair (M,), the same for every annotator of it.
        orders: (M,) 1 or -1 for the one or the other order, 0 for a tie.
        annotators: who judged (M,).

    Returns:
        (M,) True or False, or None where one annotator alone judged the pair. A tie beside an order is a difference.
    """
    orders, annotators = list(orders), list(annotators)
    judges: dict[Hashable, set[Hashable]] = {}
    found: dict[Hashable, set[int]] = {}
    for pair, order, annotator in zip(pairs, orders, annotators, strict=True):
        judges.setdefault(pair, set()).add(annotator)
        found.setdefault(pair, set()).add(order)
    return [len(found[pair]) == 1 if len(judges[pair]) > 1 else None for pair in pairs]
