"""Speed here and in peers, side by side: the works of ``scripts/benchmark.py``, what races them, and the records."""
