"""Run the chain of stages: python scripts/pipeline.py [start_from=STAGE] [stages.ppo.stage.kl_coef=0.1] (--help lists all)."""

from lit_llm.pipeline.command import main

if __name__ == "__main__":
    main()
