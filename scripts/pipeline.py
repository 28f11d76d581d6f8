"""Run the chain of stages: python scripts/pipeline.py [start_from=STEP] [stages.STEP.KEY=VALUE] (--help lists all)."""

from lit_llm.pipeline.command import main

if __name__ == "__main__":
    main()
