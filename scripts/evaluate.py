"""Evaluate a run's model again, as the run itself did: python scripts/evaluate.py run=FOLDER (--help lists all)"""

from lit_llm.config.entry_points import evaluate

if __name__ == "__main__":
    evaluate()
