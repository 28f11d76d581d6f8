"""What a reward derives from. It is defined in ``evaluation/reward.py``, below this room, where rewards are called
too."""

from lit_llm.evaluation.reward import Prompts, Reward, Rows, as_reward

__all__ = ["Prompts", "Reward", "Rows", "as_reward"]
