"""Rollouts that teach little or nothing, said at the terminal with what to change."""

from __future__ import annotations

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)

MOST = 0.5  # share of a rollout's answers from which most of them are cut


class RolloutWarnings:
    """Warns of a rollout whose groups have no spread of rewards, so that all advantages are 0, and of one whose answers
    are mostly cut: at the first, and again at the 10th, 100th and so on.

    Args:
        max_new_tokens: longest answer.
        room: tokens that an answer to the longest prompt may have in the model's context.
    """

    def __init__(self, max_new_tokens: int, room: int) -> None:
        self.max_new_tokens, self.room = max_new_tokens, room
        self.speaks = True  # one of several processes
        self.seen: dict[str, int] = {}

    def tell(self, logged: Mapping[str, float], number: int) -> None:
        """``logged``: ``objective/...`` of rollout ``number``."""
        if logged.get("objective/zero_std_groups", 0.0) >= 1.0:
            self._say("spread", number, self._without_spread(logged))
        if logged.get("objective/truncated", 0.0) > MOST:
            self._say("cut", number, self._cut(logged["objective/truncated"]))

    def _cut(self, share: float) -> str:
        more = min(2 * self.max_new_tokens, self.room)
        remedy = f"raise it (stage.max_new_tokens={more})" if more > self.max_new_tokens else "shorten the prompts"
        return (
            f"{share:.0%} of the answers were cut at stage.max_new_tokens={self.max_new_tokens} and judged unfinished: "
            f"{remedy}, or fine-tune on answers of that length first"
        )

    @staticmethod
    def _without_spread(logged: Mapping[str, float]) -> str:
        what = "no group of answers has a spread of rewards: every advantage is 0 and nothing is learned"
        if logged.get("objective/unverified", 0.0) >= 1.0:
            return f"{what}; none of the answers could be verified: look at the reward and at the data's answers"
        reward = f"all answers have the same reward ({logged.get('objective/scores', 0.0):.4g})"
        if logged.get("objective/scores_std", 0.0) > 0:
            reward = "the answers to one prompt have the same reward"
        if logged.get("objective/pass@1", 0.0) >= 1.0:
            return f"{what}; all are right: give harder prompts"
        return (
            f"{what}; {reward}: raise stage.group_size or stage.temperature, give easier prompts or a reward with more "
            "steps between wrong and right, or train on right answers first"
        )

    def _say(self, sign: str, number: int, what: str) -> None:
        count = self.seen[sign] = self.seen.get(sign, 0) + 1
        if self.speaks and str(count).strip("0") == "1":
            times = f" (the {count}th such rollout)" if count > 1 else ""
            log.warning("rollout %d: %s%s", number, what, times)
