"""Chat with a model in the terminal: python scripts/chat.py model=FOLDER (--help lists all)"""

from lit_llm.config.entry_points import chat

if __name__ == "__main__":
    chat()
