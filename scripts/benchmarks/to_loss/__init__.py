"""The time to nanoGPT's loss, and what saves it."""
