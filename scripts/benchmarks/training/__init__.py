"""The training step, here and in peers."""
