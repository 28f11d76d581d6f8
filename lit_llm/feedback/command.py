"""``scripts/rank.py``: makes ranking projects, serves them, and takes rankings in and out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from lit_llm.arguments import run_command
from lit_llm.errors import UserError
from lit_llm.generation.command import Device, utf8_output

if TYPE_CHECKING:
    from lit_llm.feedback.store.engine import Store

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
    title: Annotated[str, "what annotators see above the page"] = "Ranking"
    instructions: Annotated[str, "what annotators are told"] = ""
    overlap: Annotated[int, "annotators per prompt"] = 1
    repeat_share: Annotated[float, "share of items that an annotator sees again"] = 0.05
    gold_share: Annotated[float, "share of items with a known ranking"] = 0.05
    min_seconds: Annotated[float, "a faster ranking is kept, and left out of exports"] = 5.0
    lease_minutes: Annotated[float, "how long an item is held for one who is silent"] = 30.0
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


def main() -> None:
    """The command line (lit-llm-rank)."""
    run_command(Rank, run)


def run(arguments: Rank) -> None:
    """Does what ``action`` says. Raises UserError for whatever the user can mend."""
    utf8_output()
    missing = [name for name in ("sqlalchemy", "argon2", "fastapi", "krippendorff", "scipy") if find_spec(name) is None]
    if missing:
        raise UserError(f"the ranking app needs {', '.join(missing)}; pip install 'lit-llm[feedback]'")
    actions: dict[str, Callable[[Rank], None]] = {
        "serve": _serve, "make": _make, "import": _import, "gold": _import, "export": _export,
        "agreement": _agreement, "win_rate": _win_rate, "prioritize": _prioritize, "users": _users,
    }  # fmt: skip
    actions[arguments.action](arguments)


def _serve(a: Rank) -> None:
    from lit_llm.feedback.web.server import serve

    store = _made(a) if a.model is not None else _open(a)
    _ensure_admin(store, a.admin)
    serve(store, a.host, a.port, a.browser, a.https, a.hosts or ())


def _make(a: Rank) -> None:
    _ensure_admin(_made(a), a.admin)


def _made(a: Rank) -> Store:
    """The project with fresh answers of the model; nothing is written before they are there."""
    from lit_llm.feedback.sampling import Sampling, items_to_compare, items_to_rank
    from lit_llm.feedback.store.projects import add_items

    if a.model is None or a.prompts is None:
        raise UserError(
            f"{'model' if a.model is None else 'prompts'}= is missing; rank.py model=FOLDER prompts=FILE k=4"
        )
    for name in ("k", "max_new_tokens", "batch_size"):
        if getattr(a, name) < 1:
            raise UserError(f"{name}={getattr(a, name)}: must be at least 1")
    settings, place = _settings(a), _place(a)
    if "://" not in place and Path(place).exists():
        raise UserError(f"project={place}: is there already; project={place} alone goes on, another name makes another")
    how = Sampling(a.temperature, a.max_new_tokens, a.seed)
    if a.against is None:
        found = items_to_rank(
            a.model, a.prompts, a.k, how, max_prompts=a.max_prompts, device=a.device, batch_size=a.batch_size
        )
    else:
        found = items_to_compare(
            a.model, a.against, a.prompts, how, max_prompts=a.max_prompts, device=a.device, batch_size=a.batch_size
        )
    store = _create(place, settings)
    add_items(store, found.items)
    print(f"project {store.place}: {found}")
    return store


def _import(a: Rank) -> None:
    from lit_llm.feedback.importing import add_rows, read_items

    if a.rows is None:
        raise UserError(f"rows= is missing; rank.py action={a.action} rows=FILE project=FILE.db")
    asked, place = read_items(a.rows, gold=a.action == "gold"), _place(a)
    known = "://" in place or Path(place).exists()
    store = _open(a) if known else _create(place, _settings(a))
    print(f"project {store.place}: {add_rows(store, asked, gold=a.action == 'gold')}")
    _ensure_admin(store, a.admin)


def _export(a: Rank) -> None:
    from lit_llm.feedback.exporting import export

    if a.output is None:
        raise UserError("output= is missing; FILE.jsonl, or a folder that gets a file for each split")
    found = export(_open(a), a.kind, a.output, a.adjudicated)
    splits = ", ".join(f"{split} {count}" for split, count in found["splits"].items())
    print(f"{a.output}: {found['rows']} {a.kind} ({splits})")
    for file, digest in found["files"].items():
        print(f"{file}: sha256 {digest}")


def _agreement(a: Rank) -> None:
    from lit_llm.feedback.agreement import describe, summary

    print(describe(summary(_open(a))))


def _win_rate(a: Rank) -> None:
    from lit_llm.feedback.win_rate import describe, win_rate

    found = win_rate(_open(a))
    print(describe(found))
    if a.output is not None:
        try:
            a.output.parent.mkdir(parents=True, exist_ok=True)
            a.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"output={a.output}: cannot be written ({error.strerror})") from None


def _prioritize(a: Rank) -> None:
    from lit_llm.feedback.uncertainty import prioritize

    count = prioritize(_open(a), a.reward or [])
    print(f"{count} items: those that the reward model is least sure of come first")


def _users(a: Rank) -> None:
    from lit_llm.feedback.store import accounts

    store = _open(a)
    known = {account.name: account for account in accounts.annotators(store)}
    for key in ("reset", "deactivate"):
        name = getattr(a, key)
        if name is not None and name not in known:
            raise UserError(f"{key}={name}: there is no such account; there are {', '.join(known) or 'none'}")
    if a.add is not None:
        new = accounts.add_annotator(store, a.add, role=a.role, language=a.language)
        print(f"{new.name} ({a.role}, in exports {new.pseudonym}), password {new.password} (shown this once)")
    elif a.reset is not None:
        print(f"{a.reset}: password {accounts.set_password(store, known[a.reset].id)} (shown this once)")
    elif a.deactivate is not None:
        accounts.deactivate(store, known[a.deactivate].id)
        print(f"{a.deactivate}: may log in no more; the rankings stay")
    else:
        for one in known.values():
            print(f"{one.name}  {one.role}  {one.pseudonym}{'' if one.active else '  (inactive)'}")


def _ensure_admin(store: Store, name: str) -> None:
    """The first admin's account; its password is shown this once."""
    from lit_llm.feedback.store.accounts import add_annotator, annotators

    if not any(account.role == "admin" and account.active for account in annotators(store)):
        new = add_annotator(store, name, role="admin")
        print(f"admin account: name {new.name}, password {new.password} (shown this once)", flush=True)


def _place(a: Rank) -> str:
    if a.project is not None:
        return a.project
    source = a.model if a.model is not None else Path(a.rows or "rankings")
    name = source.resolve().parent.name if source.name == "model" else source.stem
    return str(Path("outputs/rankings") / f"{name}{'-against' if a.against is not None else ''}.db")


def _open(a: Rank) -> Store:
    from lit_llm.feedback.store.engine import open_store
    from lit_llm.feedback.store.projects import settings

    if a.project is None:
        hint = " or model=FOLDER prompts=FILE" if a.action == "serve" else ""
        raise UserError(f"project= is missing; give project=FILE.db{hint}")
    store = open_store(a.project)
    settings(store)  # a database without a project is told here
    return store


def _create(place: str, settings: object) -> Store:
    from lit_llm.feedback.store.engine import open_store
    from lit_llm.feedback.store.projects import ProjectSettings, create_project

    assert isinstance(settings, ProjectSettings)
    store = open_store(place, create=True)
    create_project(store, settings)
    return store


def _settings(a: Rank) -> object:
    from lit_llm.feedback.store.projects import ProjectSettings

    names = ("title", "instructions", "overlap", "repeat_share", "gold_share", "min_seconds", "lease_minutes", "seed")
    kind: Literal["ranking", "comparison"] = "ranking" if a.against is None else "comparison"
    return ProjectSettings(kind=kind, **{name: getattr(a, name) for name in names})
