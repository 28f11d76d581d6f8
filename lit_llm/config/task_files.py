"""What names tasks of lm-evaluation-harness: names of its own, YAML files, folders of them. Torch is not needed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lit_llm.errors import UserError

MISSING = "tasks: lm-evaluation-harness is missing; pip install 'lit-llm[tasks]'"
YAML = (".yaml", ".yml")


def files_of(word: str) -> list[Path] | None:
    """The YAML files that a word means; None: it is a name. Those that begin with _ are parts of others. Raises
    UserError where they are not there."""
    path = Path(word).expanduser()
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if one.suffix in YAML and not one.name.startswith("_"))
        if not found:
            raise UserError(f"tasks={word}: no .yaml file in this folder")
        return found
    if path.suffix not in YAML and not path.is_file():
        return None
    if not path.is_file():
        raise UserError(f"tasks={word}: no such file")
    return [path]


def check_tasks(words: str) -> None:
    """Raises UserError for files among ``tasks=A,B`` that are not there, and where the harness is not."""
    for word in filter(None, map(str.strip, words.split(","))):
        files_of(word)
    if words and find_spec("lm_eval") is None:
        raise UserError(MISSING)
