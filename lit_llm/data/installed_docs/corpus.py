"""The default corpus: the documentation that is installed with Python and with this project's own requirements.

A folder of JSONL files, made once per set of versions:

    raw_text/     domain/       {"text", "source"}: one documented member each; the domain is torch alone
    task_pairs/                 {"source", "target", "task", "function"}: a description, or a signature, and its
                                summary line
    instructions/               {"messages", "wording", "function"}; also test_wordings and test_functions
    prompts/                    {"messages", "function"}: questions without an answer
    stats.json                  rows, bytes, what was dropped, overlap of train and held-out (0)

Members are split by module; a sentence that two members share stays with one of them, the held-out one first.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_llm.data.filters import share
from lit_llm.data.installed_docs import docstrings, extraction, overlap, prose, questions
from lit_llm.data.installed_docs.extraction import Entry, Job
from lit_llm.data.installed_docs.overlap import plain, said
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import folder_beside
from lit_llm.runtime.devices import cores
from lit_llm.runtime.progress_bars import Bar
from lit_llm.runtime.suggestions import nearest

# Import name: distribution. Requirements of this project alone, and what they require; never what tests need.
PACKAGES = {
    "sympy": "sympy", "networkx": "networkx", "numpy": "numpy", "torchmetrics": "torchmetrics", "mpmath": "mpmath",
    "huggingface_hub": "huggingface_hub", "lightning": "lightning", "tensorboard": "tensorboard",
    "werkzeug": "Werkzeug",
    "setuptools": "setuptools", "jinja2": "Jinja2", "fsspec": "fsspec", "aiohttp": "aiohttp", "PIL": "pillow",
    "grpc": "grpcio", "absl": "absl-py", "packaging": "packaging", "anyio": "anyio", "click": "click",
    "filelock": "filelock", "markdown": "Markdown", "attr": "attrs", "yarl": "yarl", "tqdm": "tqdm",
    "omegaconf": "omegaconf", "hydra": "hydra-core", "yaml": "PyYAML", "google": "protobuf",
}  # fmt: skip
DOMAIN = {"torch": "torch"}
PARTS = ("raw_text", "domain", "task_pairs", "instructions", "prompts")
HELD_OUT = 0.05  # of the modules, for validation and for test each
LARGEST_TEST = 500  # rows of the task, instruction and prompt tests
LARGEST_PROMPTS = 4_000
_SKIPPED = {
    "test", "tests", "testing", "_vendor", "vendor", "benchmarks", "site-packages", "dist-packages", "idlelib",
    "lib2to3", "turtledemo", "ensurepip", "__pycache__", "_inductor", "_dynamo", "_export", "third_party",
}  # fmt: skip
# What an escape in a docstring that is not raw makes of a path: '\\amd64' becomes a bell and 'md64'.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]")
_SOURCES = (overlap, docstrings, extraction, prose, questions)


def part_files(part: str, cache_dir: str | Path = "outputs/cache") -> list[str]:
    """The files of ``installed/<part>``, made first if need be."""
    if part not in PARTS:
        near = nearest(part, PARTS)
        hint = f"; did you mean installed/{near}?" if near else ""
        raise UserError(f"data.path=installed/{part}: the parts are {', '.join(PARTS)}{hint}")
    return sorted(str(p) for p in (build(cache_dir) / part).glob("*.jsonl"))


def build(cache_dir: str | Path = "outputs/cache", *, workers: int | None = None, show_progress: bool = True) -> Path:
    """The corpus's folder, made if it is not there for exactly these versions. It appears only when complete.

    Args:
        workers: processes that read; one per core by default.
    """
    versions = _versions()
    folder = Path(cache_dir) / f"installed-{_key(versions)}"
    if (folder / "stats.json").is_file():
        return folder
    began = time.monotonic()
    jobs = list(_jobs())
    with Bar(
        total=len(jobs), desc="Reading the installed documentation", unit="file", disable=not show_progress
    ) as bar:
        entries = extraction.extract(jobs, workers or cores(), bar.update)
    with folder_beside(folder) as staging:
        stats = write(entries, staging)
        stats |= {"versions": versions, "files": len(jobs), "seconds": round(time.monotonic() - began, 1)}
        (staging / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
    return folder


def _versions() -> dict[str, str]:
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name, distribution in {**PACKAGES, **DOMAIN}.items():
        if importlib.util.find_spec(name) is not None:
            try:
                versions[name] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                versions[name] = "unknown"
    return versions


def _key(versions: Mapping[str, str]) -> str:
    code = [Path(str(module.__file__)).read_bytes() for module in _SOURCES]
    digest = hashlib.sha256(json.dumps(versions, sort_keys=True).encode())
    for text in (Path(__file__).read_bytes(), *code):
        digest.update(hashlib.sha256(text).digest())
    return digest.hexdigest()[:16]


def _jobs() -> Iterator[Job]:
    """(file, module), sorted, so that the corpus is the same on every machine with these versions."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    yield from _files_below(stdlib, "")
    for name in sorted({**PACKAGES, **DOMAIN}):
        spec = importlib.util.find_spec(name)
        for place in sorted(spec.submodule_search_locations or ()) if spec else ():
            yield from _files_below(Path(place), name)


def _files_below(root: Path, package: str) -> Iterator[Job]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(d for d in folders if d not in _SKIPPED and "." not in d and not d.startswith("config-"))
        for file in sorted(files):
            if (
                not file.endswith(".py")
                or file.startswith(("test_", "conftest"))
                or file.endswith(("_test.py", "_pb2.py"))
            ):
                continue
            path = Path(folder) / file
            parts = [package, *path.relative_to(root).with_suffix("").parts]
            if package in DOMAIN and any(p.startswith("_") and p != "__init__" and "docs" not in p for p in parts):
                continue  # the domain is its public interface
            yield str(path), ".".join(p for p in parts if p and p != "__init__")


# ---- splits and rows -------------------------------------------------------------------------------------------------


def split_of(entry: Entry) -> str:
    """By package and the module's own name, so that a module and its twin (functional, private) stay together."""
    module = entry.module.rpartition(".")[2].strip("_").removesuffix("_impl")
    if entry.kind == "topic":
        module = entry.name
    at = share(hashlib.sha256(f"{entry.package}:{module}".encode()).digest())
    return "test" if at < HELD_OUT else "validation" if at < 2 * HELD_OUT else "train"


def write(entries: Sequence[Entry], folder: Path) -> dict[str, Any]:
    """All parts as JSONL. Returns what ``stats.json`` holds."""
    order = {"test": 0, "validation": 1, "train": 2}
    ranked = sorted(entries, key=lambda e: order[split_of(e)])  # what is shared stays with the held-out
    general = [e for e in ranked if e.package not in DOMAIN]
    domain = [e for e in ranked if e.package in DOMAIN]
    seen: set[str] = set()
    parts = {"raw_text": _raw_text(general, seen), "domain": _raw_text(domain, seen)}
    asked = _askable(general)
    parts |= {"task_pairs": _task_pairs(asked), "instructions": _instructions(asked), "prompts": _prompts(asked)}
    overlap.drop(parts)
    stats: dict[str, Any] = {"members": len(entries), "functions": len(asked), "parts": {}}
    for part, splits in parts.items():
        (folder / part).mkdir(parents=True)
        stats["parts"][part] = {split: _write(folder / part / f"{split}.jsonl", rows) for split, rows in splits.items()}
    return stats | {"overlap": overlap.count(folder, parts)}


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_text(text, encoding="utf-8")
    return {"rows": len(rows), "bytes": len(text.encode())}


def _raw_text(entries: Iterable[Entry], seen: set[str]) -> dict[str, list[dict[str, Any]]]:
    """A document per member, under its name. A paragraph that was said before is left out."""
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for entry in entries:
        fresh = []
        for paragraph in entry.paragraphs:
            key = plain(paragraph)
            if len(key) >= 40:
                if key in seen:
                    continue
                seen.add(key)
            fresh.append(paragraph)
        while fresh and fresh[-1].endswith(":"):  # a title whose section is gone
            fresh.pop()
        if sum(len(p) for p in fresh if len(p) >= 40) < 40:
            continue
        title = f"{entry.qualified}({', '.join(entry.arguments)})" if entry.arguments else entry.qualified
        title = entry.name if entry.kind == "topic" else title
        text = _CONTROL.sub("", "\n\n".join([title, *fresh]))
        splits[split_of(entry)].append({"text": text, "source": entry.module})
    return splits


def _function(entry: Entry) -> str:
    """The tag of rows that are about the same thing."""
    return f"{entry.module}.{entry.name}"


def _askable(entries: Iterable[Entry]) -> list[Entry]:
    """Functions, classes and methods whose summary is an English sentence that no other has."""
    seen: set[str] = set()
    found = []
    for entry in entries:
        key = plain(entry.summary)
        named = entry.kind in ("function", "class", "method") and not {"", "_"} & {entry.short[:1], entry.qualified[:1]}
        if not named or key in seen or not prose.is_sentence(entry.summary) or not questions.action_or_thing(entry):
            continue
        seen.add(key)
        found.append(entry)
    return found


def _task_pairs(entries: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for entry in entries:
        target, about = questions.finished(entry.summary), {"function": _function(entry)}
        body = _cut(" ".join(p for p in entry.body if not p.startswith((">>>", "where "))), 600)
        if len(body) >= 60:
            splits[split_of(entry)].append({"source": body, "target": target, "task": "summarize", **about})
        if entry.arguments:
            signature = f"{entry.qualified}({', '.join(entry.arguments)})"
            splits[split_of(entry)].append({"source": signature, "target": target, "task": "describe", **about})
    return _limited(splits)


def _cut(text: str, limit: int) -> str:
    """Whole sentences up to a limit of characters."""
    kept = ""
    while text:
        sentence, text = prose.first_sentence(text)
        if len(kept) + len(sentence) > limit:
            break
        kept = f"{kept} {sentence}".strip()
    return kept


def _instructions(entries: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
    by_split = _by_split(entries)
    splits: dict[str, list[dict[str, Any]]] = {}
    for name, home, count in (("train", "train", 2), ("validation", "validation", 1), ("test_functions", "test", 1)):
        splits[name] = list(_asked(by_split[home], count))
    some = sorted(by_split["train"], key=lambda e: questions.number(e.qualified))[: 2 * LARGEST_TEST]
    splits["test_wordings"] = list(_asked(some, 1, heldout=True))
    return _limited(splits)


def _asked(entries: Sequence[Entry], count: int, *, heldout: bool = False) -> Iterator[dict[str, Any]]:
    for at, entry in enumerate(entries):
        others = _distractors(entries, at)
        for messages, wording in questions.conversations(entry, others, count, heldout=heldout):
            yield {"messages": messages, "wording": wording, "function": _function(entry)}


def _distractors(entries: Sequence[Entry], at: int) -> list[Entry]:
    """Two neighbours and two from elsewhere, of the same split."""
    far = questions.number(entries[at].qualified)
    return [entries[(at + step) % len(entries)] for step in (1 + far % 3, 5 + far % 1009, 2 + far % 5, 11 + far % 499)]


def _prompts(entries: Sequence[Entry]) -> dict[str, list[dict[str, Any]]]:
    """Questions about what something does, drawn apart from the instructions; some end with a follow-up."""
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for split, members in _by_split(entries).items():
        members = sorted(members, key=lambda e: questions.number(f"{e.qualified} prompt"))[: 5 * LARGEST_PROMPTS // 2]
        for at, entry in enumerate(members):
            for messages, wording in questions.conversations(entry, _distractors(members, at), 1, salt="prompts"):
                if not wording.startswith(("does", "signature")):
                    continue  # what can be answered well or badly, rather than right or wrong
                row = {"messages": messages[:-1], "function": _function(entry)}
                splits[split].append(row)
    splits["train"] = splits["train"][:LARGEST_PROMPTS]
    return _limited(splits)


def _by_split(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {"train": [], "validation": [], "test": []}
    for entry in entries:
        found[split_of(entry)].append(entry)
    return found


def _limited(splits: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Held-out parts of at most ``LARGEST_TEST`` rows, chosen by hash: a test is generated token by token."""
    return {
        name: rows if name == "train" else sorted(rows, key=lambda r: questions.number(said(r)))[:LARGEST_TEST]
        for name, rows in splits.items()
    }
