"""A run's data before it starts: python scripts/prepare.py WORDS, those of train.py (--help says more)."""

from lit_llm.training.prepare import main

if __name__ == "__main__":
    main()
