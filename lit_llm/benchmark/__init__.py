"""Speed of the training step, here and in peers, side by side."""
