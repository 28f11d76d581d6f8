"""People rank answers in the browser: python scripts/rank.py model=FOLDER prompts=FILE k=4 (--help lists all)."""

from lit_llm.config.entry_points import rank

if __name__ == "__main__":
    rank()
