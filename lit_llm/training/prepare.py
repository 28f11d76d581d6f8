"""``scripts/prepare.py``: a run's data as a table and three of its rows as the model will see them; nothing trains.

It takes the words of ``scripts/train.py``. The tokens are in the cache afterwards, so that the run begins at once.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lit_llm.config import schema
from lit_llm.config.command_line import check, compose, small_command
from lit_llm.config.hydra_words import hydra_words
from lit_llm.config.targets import construct
from lit_llm.errors import UserError
from lit_llm.runtime.counted import counted
from lit_llm.runtime.terminal import started

if TYPE_CHECKING:  # torch is imported when the configuration has been found good
    from lit_llm.data.data_module import DataModule

HELP = """Shows the data of a run before it starts: a table of what is read, and three rows as the model will see them.

  prepare.py WORDS   the words of scripts/train.py: prepare.py stage=instruction_tuning init_from=MODEL data.path=FOLDER

What is trained stands in [[ ]], on a terminal in green. Nothing trains and no run folder is made. The data's tokens are
in the cache afterwards: the run that follows does not make them again. train.py WORDS look=true does the same."""
SAMPLES = 3


def main(words: Sequence[str] | None = None) -> None:
    """The command line (lit-llm-prepare)."""
    small_command(HELP, run, words, kept="the tokens that are in the cache are kept")


def run(words: Sequence[str]) -> None:
    """Prints the table and the samples of the run that the words describe."""
    if options := [word for word in words if word.startswith("-")]:
        raise UserError(f"{options[0]}: one run's data is shown, which takes no options of Hydra's")
    sys.path.append(str(Path.cwd()))  # modules of one's own: a format
    schema.register()
    check("train", hydra_words("train", list(words)))
    cfg = compose("train", list(words))
    started("prepare: loading torch and reading the data ...")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="prepare-") as folder:
        data = None
        try:
            data = data_of(cfg, Path(folder))
            lines = list(table(data))
        except UserError as error:  # what was read says what is wrong with it
            for line in known(data, error):
                print(line)
            raise
        print("\n".join(lines))
        for line in samples(data, colours=sys.stdout.isatty()):
            print(line)


def known(data: DataModule | None, error: UserError) -> Iterator[str]:
    """The table of what was read before an error, which ended it."""
    from lit_llm.data.not_usable import NotUsable
    from lit_llm.data.overview import Overview

    overview = Overview()
    if data is not None:
        overview += data.overview_so_far
    if isinstance(error, NotUsable):
        overview.of_key(error.key).__iadd__(error.overview)
    if overview.kinds or overview.beside:
        yield from overview.lines()
        yield from (f"WARNING: {line}" for line in overview.warnings())


def data_of(cfg: DictConfig, folder: Path) -> DataModule:
    """The run's data with the run's tokenizer. The model is read only where the stage gives its vocabulary new words.

    Raises UserError as the run would.
    """
    from lit_llm.training.build import check_batches, load, load_run_tokenizer

    if cfg.stage.get("new_tokens"):
        return load(cfg, folder).data
    check_batches(cfg)
    tokenizer = load_run_tokenizer(cfg, folder / "tokenizer")
    data: Any = construct(cfg.data, "data", cfg.allowed_targets)(tokenizer=tokenizer)
    return data  # type: ignore[no-any-return]


def table(data: DataModule) -> Iterator[str]:
    """What is read of the data, what is not and why; what is loud at the end."""
    overview = data.overview()
    yield from overview.lines(data.left_out_later())
    trained = f"; {counted(overview.tokens, 'token')}, of which an epoch trains {data.train_tokens:,}"
    yield f"an epoch has {data.epoch_in_words()}{trained if data.train_tokens else ''}"
    yield from data.places()
    yield from (f"WARNING: {line}" for line in overview.warnings())


def samples(data: DataModule, *, colours: bool) -> Iterator[str]:
    """The first rows of the first epoch."""
    from lit_llm.data.samples import shown

    for number, parts in enumerate(data.samples(SAMPLES), start=1):
        yield ""
        yield f"==== row {number}, as the model sees it ===="
        yield shown(parts, colours=colours)
