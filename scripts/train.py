"""Train one stage: python scripts/train.py stage=pretraining data.path=FOLDER optimizer.lr=3e-4 (--help lists all)."""

from lit_llm.training.command import main

if __name__ == "__main__":
    main()
