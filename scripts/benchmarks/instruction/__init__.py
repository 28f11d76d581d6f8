"""Instruction tuning on conversations of unlike lengths, here and in TRL."""
