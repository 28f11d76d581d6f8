"""Data preparation: megabytes of text a second on one core, from files to rows on the disk that are ready to train on.

The same text files and tokenizer folder for everybody; every call begins with an empty cache, on the disk and here in
memory too, and reads the tokenizer anew. Here that is ``RawText`` with all of its checks; in the peers what they ship
and document.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from benchmarks.command import say
from benchmarks.conditions import conditions
from benchmarks.preparation import preparers
from benchmarks.race import Contestant, Result, race
from benchmarks.record import Goal, Record
from lit_llm.data.installed_docs.corpus import part_files
from lit_llm.errors import UserError
from lit_llm.text.bpe import train_bpe
from lit_llm.text.control_tokens import DOCUMENT_END

WANTED = 2.0
FILE_CHARACTERS = 200_000  # of each file that the documentation is put into


@dataclass(frozen=True)
class Settings:
    """Times reading, tokenizing, packing and writing of text files, here and in peers."""

    text: Annotated[Path | None, "a folder of .txt files, each one document; none: the installed documentation"] = None
    tokenizer: Annotated[Path | None, "a tokenizer's folder with a bos_token; none: one is trained on the text"] = None
    vocab_size: Annotated[int, "of the tokenizer that is trained"] = 16_384
    length: Annotated[int, "tokens a row"] = 1024
    cores: Annotated[int, "everybody is kept on so many"] = 1
    peers: Annotated[str, "installed, or nothing"] = "installed"
    lines: Annotated[bool, "datasets also line by line, as run_clm reads a text: slower"] = False
    rounds: Annotated[int, "rounds, at least 5 to be reported"] = 5
    cache_dir: Annotated[Path, "where the installed documentation is kept"] = Path("outputs/cache")
    json: Annotated[Path | None, "also write the results here"] = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "length", "cores", "rounds"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name}={getattr(self, name)}: must be above 0")
        if self.peers not in ("installed", ""):
            raise UserError(f"peers={self.peers}: must be installed, or nothing")
        if self.text is not None and len(list(self.text.glob("*.txt"))) < 2:
            raise UserError(f"text={self.text}: must be a folder with two .txt files or more")


def run(settings: Settings) -> Record:
    with tempfile.TemporaryDirectory() as place:
        folder, tokenizer = _inputs(settings, Path(place))
        files = sorted(folder.glob("*.txt"))
        size = sum(file.stat().st_size for file in files) / 1e6
        described = [
            f"{size:.1f} MB of text in {len(files)} files, each one document; rows of {settings.length} tokens; "
            f"{settings.cores} core{'s' if settings.cores > 1 else ''}, nothing cached between calls",
            *conditions(settings.cores, "cpu", ("tokenizers", "litgpt", "litdata", "datasets", "transformers")),
        ]
        say("\n".join(described))
        contestants = list(_contestants(settings, folder, tokenizer))
        results = race(contestants, settings.rounds, seconds=0.0, threads=settings.cores, say=say)
    rivals = [each.name for each in contestants if not each.name.startswith("here")]
    without, notes = _without_start(results)
    less = [name for name in rivals if name != "litgpt"] + [each.name for each in without]
    goals = [
        Goal("tokenize and pack", "here", rivals, WANTED),
        Goal("without the start of litgpt's processes", "here", less if without else [], WANTED),
    ]
    title = "data preparation"
    return Record("preparation", "MB", described, [*results, *without], goals, notes, asdict(settings), title=title)


def _inputs(settings: Settings, place: Path) -> tuple[Path, Path]:
    """The folder of texts and the tokenizer's."""
    folder = settings.text or place / "text"
    if settings.text is None:
        _write_documentation(folder, settings.cache_dir)
    if settings.tokenizer is not None:
        return folder, settings.tokenizer
    made = train_bpe(
        (_read(file) for file in sorted(folder.glob("*.txt"))),
        settings.vocab_size,
        show_progress=False,
    )
    made.config["bos_token"] = DOCUMENT_END  # litgpt's preparation asks for one
    made.save(place / "tokenizer")
    return folder, place / "tokenizer"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({type(error).__name__}); text= takes files in UTF-8") from None


def _write_documentation(folder: Path, cache_dir: Path) -> None:
    folder.mkdir()
    texts, size, number = [], 0, 0
    for file in [*part_files("raw_text", cache_dir), *part_files("domain", cache_dir)]:
        for line in filter(None, Path(file).read_text(encoding="utf-8").split("\n")):
            texts.append(json.loads(line)["text"])
            size += len(texts[-1])
            if size >= FILE_CHARACTERS:
                (folder / f"{number:03d}.txt").write_text("\n\n".join(texts), encoding="utf-8")
                texts, size, number = [], 0, number + 1
    (folder / f"{number:03d}.txt").write_text("\n\n".join(texts), encoding="utf-8")


def _contestants(settings: Settings, folder: Path, tokenizer: Path) -> Iterator[Contestant]:
    given = (folder, tokenizer, settings.length, settings.cores)
    yield Contestant("here", partial(preparers.Here, *given))
    yield Contestant("here, tokens in the cache", partial(preparers.HereAgain, *given))
    if settings.peers and find_spec("litgpt") and find_spec("litdata"):
        yield Contestant("litgpt", partial(preparers.LitGPT, *given), tuned=False)
    if settings.peers and find_spec("datasets") and find_spec("transformers"):
        for by in ("document", "line") if settings.lines else ("document",):
            yield Contestant(f"datasets by {by}", partial(preparers.Datasets, *given, by), tuned=False)


def _without_start(results: list[Result]) -> tuple[list[Result], list[str]]:
    """litgpt prepares in processes that import torch again: what that takes does not grow with the text.

    Returns nobody, but a note, where a round took no longer than the start: the text is too small to tell them apart.
    """
    for each in results:
        if each.name != "litgpt":
            continue
        whole, start = each.numbers["MB"], each.numbers["start_seconds"]
        took = [whole / speed - start for speed in each.rounds]
        if min(took) <= 0:
            return [], [f"litgpt's start, {start:.1f} seconds, is as long as a round: give more text="]
        rounds = tuple(whole / seconds for seconds in took)
        return [Result("litgpt less its start", rounds, each.peak_gb, each.first_seconds)], []
    return [], []
