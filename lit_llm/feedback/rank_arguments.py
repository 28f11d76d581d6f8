"""What ``scripts/rank.py`` can be told, and which action reads what."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from lit_llm.errors import UserError
from lit_llm.runtime.devices import Device

SETTINGS = (
    "title", "instructions", "overlap", "repeat_share", "gold_share", "min_seconds", "lease_minutes", "allow_ties",
    "ratings", "flag_kinds", "target_rankings",
)  # fmt: skip
_SAMPLING = ("model", "prompts", "temperature", "max_new_tokens", "max_prompts", "seed", "batch_size", "device")
_READ = {
    "serve": (*SETTINGS, "admin", "host", "port", "hosts", "https", "browser"),
    "make": (*SETTINGS, "admin"),
    "import": (*SETTINGS, "admin", "rows", "seed"),
    "gold": (*SETTINGS, "admin", "rows", "seed"),
    "export": ("kind", "output", "adjudicated"),
    "agreement": (),
    "win_rate": ("output",),
    "prioritize": ("reward",),
    "users": ("add", "reset", "deactivate", "role", "language"),
}
"""What each action reads besides ``project``; serve and make with a model also how its answers are sampled."""

Action = Literal[
    "serve", "make", "import", "gold", "export", "agreement", "win_rate", "prioritize", "users"
]  # fmt: skip


@dataclass
class Rank:
    """People rank answers best to worst in the browser.

    rank.py model=FOLDER prompts=FILE             samples answers, makes a project and serves it
    rank.py project=FILE.db                       goes on with it
    rank.py model=AFTER against=BEFORE prompts=FILE    a blind comparison of two models
    """

    action: Annotated[Action, "what to do; make: as serve, without serving"] = "serve"
    project: Annotated[str | None, "the project: FILE.db or an SQLAlchemy URL; by default outputs/rankings/NAME.db"] = (
        None
    )
    model: Annotated[Path | None, "the model whose answers are ranked"] = None
    against: Annotated[Path | None, "a model to compare it with, blind"] = None
    prompts: Annotated[str | None, "files of prompts"] = None
    k: Annotated[int, "answers to each prompt"] = 4
    temperature: Annotated[float, "of the sampling"] = 1.0
    max_new_tokens: Annotated[int, "longest answer"] = 128
    max_prompts: Annotated[int | None, "at most so many prompts, chosen by the seed"] = None
    seed: Annotated[int, "of the sampling and of what is shown in which order"] = 0
    batch_size: Annotated[int, "prompts answered at once"] = 64
    device: Annotated[Device, "where answers are computed"] = "auto"
    # Settings of the project: a new one's, or what changes in the one that is there.
    title: Annotated[str | None, "what annotators see above the page; of a new project: Ranking"] = None
    instructions: Annotated[str | None, "what annotators are told; new: nothing"] = None
    overlap: Annotated[int | None, "annotators per prompt; new: 1"] = None
    repeat_share: Annotated[float | None, "share of items that an annotator sees again; new: 0.05"] = None
    gold_share: Annotated[float | None, "share of items with a known ranking; new: 0.05"] = None
    min_seconds: Annotated[float | None, "a faster ranking is kept, and left out of exports; new: 5"] = None
    lease_minutes: Annotated[float | None, "how long an item is held for one who is silent; new: 30"] = None
    allow_ties: Annotated[bool | None, "whether answers may share a rank; new: true"] = None
    ratings: Annotated[bool | None, "whether answers are rated helpful, honest, harmless from 1 to 7; new: true"] = None
    flag_kinds: Annotated[list[str] | None, "what annotators can flag, of the kinds that there are; new: all"] = None
    target_rankings: Annotated[int | None, "when the project has enough; new: every item's overlap"] = None
    rows: Annotated[str | None, "import, gold: files with prompt, completions and perhaps ranking"] = None
    kind: Annotated[Literal["rankings", "pairs", "labels"], "export: what to write"] = "rankings"
    output: Annotated[Path | None, "export: FILE.jsonl, or a folder with a file a split; win_rate: FILE.json"] = None
    adjudicated: Annotated[bool, "export: final rankings in place of those they settle"] = True
    reward: Annotated[list[Path] | None, "prioritize: reward model folders, an ensemble where several"] = None
    add: Annotated[str | None, "users: the name of a new account"] = None
    reset: Annotated[str | None, "users: whose password is drawn anew"] = None
    deactivate: Annotated[str | None, "users: who may log in no more"] = None
    role: Annotated[Literal["annotator", "adjudicator", "admin"], "users: of the new account"] = "annotator"
    language: Annotated[str, "users: of the new account's pages (en, ar)"] = "en"
    admin: Annotated[str, "the name of the first admin account"] = "admin"
    host: Annotated[str, "address to listen at; 0.0.0.0 is reachable from outside"] = "127.0.0.1"
    port: Annotated[int, "0 lets the system choose"] = 8000
    hosts: Annotated[list[str] | None, "further names that browsers use for this machine"] = None
    https: Annotated[bool, "an https proxy stands in front"] = False
    browser: Annotated[bool, "open the page in this machine's browser"] = False


def check_read(a: Rank) -> None:
    """Raises UserError for an argument that the action would not look at."""
    read = {"action", "project", *_READ[a.action]}
    if a.action == "make" or (a.action == "serve" and a.model is not None):
        read |= {*_SAMPLING, "k" if a.against is None else "against"}
    for given in fields(a):
        if given.name not in read and getattr(a, given.name) != given.default:
            why = f"action={a.action} does not read it"
            if a.action == "serve" and given.name in (*_SAMPLING, "k", "against"):
                why = "says how to sample answers for a new project; model=FOLDER is missing"
            elif given.name == "k":
                why = "a comparison has one answer of each model"
            raise UserError(f"{given.name}={getattr(a, given.name)}: {why}")
