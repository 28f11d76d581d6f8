"""Examine a run's model again, as the run itself did: python scripts/evaluate.py run=FOLDER (--help lists all)"""

from lit_llm.arguments import run_command
from lit_llm.reexamination import Evaluate, run

if __name__ == "__main__":
    run_command(Evaluate, run)
