"""The READMEs: every link leads somewhere, and every command is one that the project takes."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from lit_llm.config import renamed
from lit_llm.config.command_line import check
from lit_llm.config.entry_points import check_words
from lit_llm.errors import UserError

ROOT = Path(__file__).parents[1]
FOLDERS = ("", "lit_llm", "scripts", ".github")
PAGES = sorted(
    {page for folder in FOLDERS for page in (ROOT / folder).glob("*.md")}
    | set((ROOT / "lit_llm").rglob("*.md"))
    | set((ROOT / "scripts").rglob("*.md"))
    | {ROOT / "conf/README.md"}
)
OPTIONS = {  # the keys of the small commands
    "chat": "lit_llm.generation.chat.ChatOptions",
    "generate": "lit_llm.generation.command.Generate",
    "evaluate": "lit_llm.training.evaluate_command.Evaluate",
    "export": "lit_llm.export.command.Export",
    "verify": "lit_llm.lineage.verification.Verify",
    "rank": "lit_llm.feedback.rank_arguments.Rank",
}
PLACES = re.compile(
    r"=(\$|FOLDER|RUN_FOLDER|outputs/|installed/|[\w./]*(my_|team|blind|chats|pairs|comparisons|labels|gsm8k|calls|rankings|prompts|problems))"
)
EXTRA = "is not installed; pip install 'lit-llm["
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def links():
    for page in PAGES:
        for target in _LINK.findall(page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")):
                yield pytest.param(page, target, id=f"{page.relative_to(ROOT)}-{target}")


def commands():
    """(page, words) of every command line of ours in a bash block, a line that goes on joined; each once."""
    seen = set()
    for page in PAGES:
        for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                ours = len(words) > 1 and Path(words[0]).name.startswith("python") and words[1].startswith("scripts/")
                if ours and tuple(words[1:]) not in seen:
                    seen.add(tuple(words[1:]))
                    yield pytest.param(page, words[1:], id=f"{page.relative_to(ROOT)}-{' '.join(words[1:])[:90]}")


def without_places(words):
    return tuple(f"{word.partition('=')[0]}=" if PLACES.search(word) else word for word in words)


def to_check():
    """``commands()`` less those that differ from one before in the reader's places alone; and as composing a pipeline
    takes seconds, values for it are given together as far as no key is given twice."""
    seen, pipelines, found = set(), [], []
    for one in commands():
        page, words = one.values
        if (kind := without_places(words)) in seen:
            continue
        seen.add(kind)
        keys = {word.partition("=")[0] for word in words if "=" in word}
        if words[0] != "scripts/pipeline.py" or any(key.partition("@")[2] or key == "experiment" for key in keys):
            found.append(one)
            continue
        for other, given, options in pipelines:
            if not keys & given and options == {word for word in words if "=" not in word}:
                other.values[1].extend(word for word in words if "=" in word)
                given |= keys
                break
        else:
            found.append(pytest.param(page, list(words), id=one.id))
            pipelines.append((found[-1], keys, {word for word in words if "=" not in word}))
    return found


@pytest.mark.parametrize(("page", "target"), list(links()))
def test_a_link_leads_to_a_file_or_a_heading(page, target):
    name, _, heading = target.partition("#")
    place = page.parent / name if name else page
    assert place.exists(), f"{page.relative_to(ROOT)}: {target}"
    if heading:
        titles = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
        assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(("page", "words"), to_check())
def test_a_command_is_one_that_the_project_takes(page, words, tmp_path, monkeypatch):
    """Composed and checked as the command line does before it imports torch; places of the reader's are left open."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    script, *rest = words
    assert (ROOT / script).is_file(), page
    name, rest = Path(script).stem, [word for word in rest if word not in ("-m", "--multirun", "--help")]
    if name == "plan":  # takes the words of one of the two, and one of its own
        name = "pipeline" if rest[:1] == ["pipeline"] else "train"
        rest = [word for word in rest if word not in ("pipeline", "measure=false")]
    if name in ("prepare", "train"):
        name, rest = "train", [word for word in rest if word != "look=true"]
    if name in ("train", "pipeline"):
        assert [renamed.word(name, word)[1] for word in rest if renamed.word(name, word)[1]] == []
        if "--config-dir" in rest or "debug=fast_dev_run" in rest:
            return
        several = ["--multirun"] if {"-m", "--multirun"} & set(words) else []
        try:
            check(name, [*several, *(os.path.expandvars(word) for word in _rewritten(name, rest))])
        except UserError as error:  # a place of the reader's is not there, or a package; and nothing else is wrong
            assert all(PLACES.search(line) or EXTRA in line for line in str(error).splitlines()), str(error)
    elif name == "benchmark":
        if rest:
            check_words(f"benchmarks.{rest[0]}.work.Settings", rest[1:])
    else:
        check_words(OPTIONS[name], rest)


def test_every_command_is_checked():
    """Alone, or together with others of the same script."""
    checked = [set(without_places(one.values[1])) for one in to_check()]
    assert not [one.id for one in commands() if not any(set(without_places(one.values[1])) <= all_ for all_ in checked)]


def _rewritten(name, words):
    from lit_llm.config.hydra_words import hydra_words

    return hydra_words(name, [word for word in words if not word.startswith("resume=")])
