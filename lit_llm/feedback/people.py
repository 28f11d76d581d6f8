"""People's rankings in a pipeline: as they are now, kept as files; and the wait until there are enough of them."""

from __future__ import annotations

import json
import logging
import random
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import sleep
from typing import Any

from lit_llm.data.file_rows import Row, read_rows
from lit_llm.data.projects import is_project, rankings_hash, shown
from lit_llm.data.sources import resolve
from lit_llm.data.splits import UNDIVIDED
from lit_llm.errors import UserError
from lit_llm.feedback.options import PeopleOptions
from lit_llm.runtime.atomic_files import write_json, write_text
from lit_llm.runtime.devices import Device
from lit_llm.runtime.progress_bars import Bar

log = logging.getLogger("lit_llm")


def collect(
    path: str,
    output: str | Path,
    *,
    model: str | None = None,  # noqa: ARG001 (the step's configuration names its parents)
    cache_dir: str = PeopleOptions.cache_dir,
) -> dict[str, Any]:
    """Copies the rankings that are there now, so that what is trained on stays when people go on ranking.

    Args:
        path: a ranking project (``FILE.db`` or a URL), a file or folder of rankings.
        output: gets a file of rows for each split, ``rankings.jsonl`` where none is said, and ``collection.json``.
        model: whose answers were ranked, for the lineage.

    Returns:
        Counts: rows by split, annotators, rows by people and by simulated annotators, flags by kind.

    Raises:
        UserError: nothing there, or a row that cannot be read.
    """
    rows = {split: list(_values(files)) for split, files in resolve(path, cache_dir).items()}
    every = [row for some in rows.values() for row in some]
    if not every:
        raise UserError(f"rankings={shown(path)}: holds no ranking yet")
    simulated = sum(row.get("simulated") is True for row in every)
    kinds: dict[str, int] = {}
    for flag in (flag for row in every for flag in row.get("flags") or () if isinstance(flag, Mapping)):
        kinds[str(flag.get("kind"))] = kinds.get(str(flag.get("kind")), 0) + 1
    result = {
        "rows": {split: len(some) for split, some in rows.items()},
        "by_people": len(every) - simulated,
        "by_simulated_annotators": simulated,
        "annotators": len({str(row.get("annotator") or row.get("annotator_id") or "") for row in every}),
        "flags": dict(sorted(kinds.items())),
        "simulated": simulated > 0,
    }
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for split, some in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
        name = "rankings" if split == UNDIVIDED else split
        write_text(folder / f"{name}.jsonl", text, errors="surrogatepass")
    write_json(folder / "collection.json", result)
    return result


def describe(result: Mapping[str, Any]) -> str:
    """The collection in a line, for people."""
    rows = ", ".join(f"{'in all' if split == UNDIVIDED else split} {count}" for split, count in result["rows"].items())
    flags = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in result["flags"].items()) or "none"
    others = f", {result['by_simulated_annotators']} by simulated ones" if result["simulated"] else ""
    return f"people's rankings: {rows}; {result['by_people']} by people{others}; flags: {flags}"


def fingerprint(path: str) -> str | None:
    """SHA-256 of a project's rankings; None for files, which are hashed as they are."""
    return rankings_hash(path)[0] if is_project(path) else None


def _values(files: list[str]) -> Iterator[dict[str, Any]]:
    for row in read_rows(files):
        if not isinstance(row, Row):
            raise UserError(str(row))
        if isinstance(row.value, str):
            raise UserError(f"{row.where}: a text; rankings are objects with prompt, completions and ranking")
        yield row.value


# rankings=ask


def ask(
    place: Path,
    *,
    model: str,
    prompts: str,
    k: int,
    temperature: float,
    max_new_tokens: int,
    max_prompts: Mapping[str, int] | int | None,
    overlap: int,
    seed: int,
    batch_size: int,
    device: Device,
) -> None:
    """Makes the project at ``place`` with answers of ``model``: it is whole or absent. One that is there keeps its
    answers and gets the ``overlap``."""
    if place.is_file():
        overlapping(place, overlap)
        return
    from lit_llm.feedback.sampling import Sampling, items_to_rank
    from lit_llm.feedback.store.engine import open_store
    from lit_llm.feedback.store.projects import ProjectSettings, add_items, create_project

    sampling = Sampling(temperature, max_new_tokens, seed)
    found = items_to_rank(
        Path(model), prompts, k, sampling, max_prompts=max_prompts, device=device, batch_size=batch_size
    )
    items = random.Random(seed).sample(found.items, len(found.items))  # every split gets its share of what is ranked
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f".{place.stem}-unfinished.db")
    unfinished.unlink(missing_ok=True)
    store = open_store(unfinished, create=True)
    try:
        create_project(store, ProjectSettings(title="Answers of the pipeline's model", overlap=overlap, seed=seed))
        add_items(store, items)
    finally:
        store.close()
    unfinished.replace(place)
    log.info("%s, in %s", found, place)


def overlapping(place: Path, overlap: int) -> None:
    """How many people rank each prompt from now on; what is ranked stays."""
    from lit_llm.feedback.store.engine import open_store
    from lit_llm.feedback.store.projects import change_settings, settings

    store = open_store(place)
    try:
        before = settings(store).overlap
        if before != overlap:
            change_settings(store, overlap=overlap)
            log.info("%s: each prompt is now ranked by %d (it was %d)", place, overlap, before)
    finally:
        store.close()


def wait(place: Path, enough: int, every_seconds: float) -> int:
    """Waits until ``enough`` rankings are in the project, or until ``PLACE.done`` is there and one ranking is.

    Never for more than the project has places for. Returns how many there are. Ctrl-C ends the program with status
    130: nothing is lost, the same command goes on.
    """
    done = place.with_suffix(".done")
    count, possible = ranked(place)
    if possible < enough:
        log.info("%s has places for %d rankings: no more than these are waited for (%d asked)", place, possible, enough)
        enough = possible
    if ready(count, enough, done):
        return count
    log.info("%s", told(place, count, enough, done))
    if threading.current_thread() is threading.main_thread():
        # The stages before leave handlers that keep a SIGTERM for the end of a step: here there is none to wait for.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Bar(total=enough, initial=count, desc="rankings", unit="ranking", dynamic_ncols=True) as bar:
        try:
            while not ready(count, enough, done):
                sleep(every_seconds)
                count, _ = ranked(place)
                bar.update(count - bar.n)
        except KeyboardInterrupt:
            bar.close()
            log.info("stopped at %d of %d rankings; nothing is lost, the same command goes on from here", count, enough)
            raise SystemExit(130) from None
    return count


def ready(count: int, enough: int, done: Path) -> bool:
    return count >= max(1, enough) or (done.is_file() and count > 0)


def ranked(place: Path) -> tuple[int, int]:
    """The rankings submitted so far, those under the time floor left out; and how many there can be."""
    from lit_llm.feedback.store.engine import open_store
    from lit_llm.feedback.store.progress import progress

    store = open_store(place)
    try:
        found = progress(store)
        return found.rankings, found.possible
    finally:
        store.close()


def told(place: Path, count: int, enough: int, done: Path) -> str:
    """Where and how to rank, in one block."""
    line = "-" * 88
    return "\n".join(
        [
            "",
            line,
            f"People rank now: {count} of {enough} rankings are there.",
            "  rank, in another terminal:     python scripts/rank.py project=" + str(place),
            f"  go on with what is there:      touch {done}",
            "  stop and come back later:      Ctrl-C, then the same command again",
            f"  another number is enough:      the same command with people.enough=N (now {enough})",
            line,
        ]
    )
