"""Hash every byte from a model back to its corpus again, offline: python scripts/verify.py model=FOLDER"""

from dataclasses import dataclass
from pathlib import Path

from lit_llm.arguments import run_command
from lit_llm.lineage import verify


@dataclass
class Arguments:
    """Compares the files of a model, of all it was made from, and their data with what their lineages recorded."""

    model: Path


def main(arguments: Arguments) -> None:
    folders, differences = verify(arguments.model)
    for folder in folders:
        print(f"hashed {folder}")
    for difference in differences:
        print(f"differs: {difference}")
    print(f"{len(differences)} differences" if differences else "every byte is as recorded")
    raise SystemExit(1 if differences else 0)


if __name__ == "__main__":
    run_command(Arguments, main)
