"""Answers to prompts of unlike lengths, here and in peers."""
