"""Chat with a model in the terminal: python scripts/chat.py model=FOLDER (--help lists all)"""

from lit_llm.arguments import run_command
from lit_llm.generation.chat import ChatOptions, run

if __name__ == "__main__":
    run_command(ChatOptions, run)
