"""Memory and time of LoRA beside QLoRA."""
