"""Speed here and in peers, side by side: what races, what keeps the records, and a folder for every work.

A work, ``scripts/benchmark.py WORK``, is a folder with a ``work.py``; what it found is kept in ``records/``. What
stands beside the folders serves them all; ``tuning`` is what preference and instruction share.
"""
