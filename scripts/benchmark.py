"""Times the training step here and in peers: ``python scripts/benchmark.py batch=32 nanogpt=FOLDER`` (--help)."""

from lit_llm.arguments import run_command
from lit_llm.benchmark.command import Benchmark, run

if __name__ == "__main__":
    run_command(Benchmark, run)
