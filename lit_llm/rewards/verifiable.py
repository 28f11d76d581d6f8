"""Whether a data set's prompts have what a reward verifies answers by, asked before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lit_llm.errors import UserError
from lit_llm.records import Prompt
from lit_llm.rewards.base import Reward, as_reward

log = logging.getLogger(__name__)


def check_verifiable(reward: Any, prompts: Sequence[Prompt], name: str = "reward") -> None:
    """Raises UserError where a verifier that reads a tag can verify none of the prompts; warns where it is some.

    A verifier is asked about empty answers: what it cannot verify then (NaN), it never can.
    """
    for place, part in _parts(as_reward(reward, name), name):
        if part.tag is None or not part.row_fields or not prompts:
            continue
        rows = [prompt.tags for prompt in prompts]
        scores = np.asarray(part([p.messages for p in prompts], [""] * len(prompts), rows=rows), dtype=np.float64)
        unknown = np.isnan(scores)
        first = prompts[int(unknown.argmax())].source
        if unknown.all():
            raise UserError(
                f"{place}.tag={part.tag}: none of the {len(prompts)} prompts has it ({first} has "
                f"{', '.join(prompts[0].tags) or 'no tag'}); verify by a field that the data has"
            )
        if unknown.any():
            log.warning(
                "%s: %d of %d prompts cannot be verified; the first: %s", place, unknown.sum(), len(rows), first
            )


def _parts(reward: Reward, name: str) -> Iterator[tuple[str, Reward]]:
    yield name, reward
    for part, each in reward.parts.items():
        yield from _parts(each, f"{name}.parts.{part}.reward")
