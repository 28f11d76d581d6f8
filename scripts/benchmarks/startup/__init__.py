"""From the training command to its first step."""
