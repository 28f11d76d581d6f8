"""Races this project against its peers: ``python scripts/benchmark.py WORK key=value ...`` (no word: the works)."""

from benchmarks.command import main

if __name__ == "__main__":
    main()
