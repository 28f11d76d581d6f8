"""What a run will take, before it starts: python scripts/plan.py WORDS, those of train.py (--help says more)."""

from lit_llm.pipeline.plan import main

if __name__ == "__main__":
    main()
