"""DPO, reward models, GRPO and PPO, here and in TRL."""
