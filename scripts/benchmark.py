"""Times the training step here and in peers: ``python scripts/benchmark.py batch=32 nanogpt=FOLDER`` (--help)."""

from lit_llm.benchmark.command import main

if __name__ == "__main__":
    main()
