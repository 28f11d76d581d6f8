"""Go on with a text, or list the next words: python scripts/generate.py model=FOLDER prompt="The cat" [next_words=5]"""

from lit_llm.arguments import run_command
from lit_llm.generation.command import Generate, run

if __name__ == "__main__":
    run_command(Generate, run)
