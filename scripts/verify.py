"""Hash every byte from a model back to its corpus again, offline: python scripts/verify.py model=FOLDER"""

from lit_llm.lineage.verification import main

if __name__ == "__main__":
    main()
