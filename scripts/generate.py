"""Go on with a text, or list the next words: python scripts/generate.py model=FOLDER prompt="The cat" [next_words=5]"""

from lit_llm.config.entry_points import generate

if __name__ == "__main__":
    generate()
