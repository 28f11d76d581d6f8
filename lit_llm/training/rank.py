"""One of the processes that torchrun starts for ``launch``. It ends with torchrun, from its first moment on: what it
imports then takes many seconds on a busy machine."""

from __future__ import annotations

import sys
from pathlib import Path

from lit_llm.runtime.parent import end_with_named


def main() -> None:
    end_with_named()
    from lit_llm.training.launch import worker

    worker(Path(sys.argv[1]), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
