"""Write a model for other engines: python scripts/export.py model=FOLDER [quantization=q8_0] [node_llama_cpp=FOLDER]"""

from lit_llm.config.entry_points import export

if __name__ == "__main__":
    export()
