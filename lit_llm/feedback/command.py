"""``scripts/rank.py``: makes ranking projects, serves them, and takes rankings in and out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from lit_llm.arguments import run_command
from lit_llm.errors import UserError
from lit_llm.generation.command import Device, utf8_output

if TYPE_CHECKING:
    from lit_llm.feedback.store.engine import Store
    from lit_llm.feedback.store.projects import ProjectSettings

_SETTINGS = (
    "title", "instructions", "overlap", "repeat_share", "gold_share", "min_seconds", "lease_minutes", "allow_ties",
    "flag_kinds", "target_rankings",
)  # fmt: skip
_SAMPLING = ("model", "prompts", "temperature", "max_new_tokens", "max_prompts", "seed", "batch_size", "device")
_READ = {
    "serve": (*_SETTINGS, "admin", "host", "port", "hosts", "https", "browser"),
    "make": (*_SETTINGS, "admin"),
    "import": (*_SETTINGS, "admin", "rows", "seed"),
    "gold": (*_SETTINGS, "admin", "rows", "seed"),
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


def main() -> None:
    """The command line (lit-llm-rank)."""
    run_command(Rank, run)


def run(arguments: Rank) -> None:
    """Does what ``action`` says. Raises UserError for whatever the user can mend."""
    utf8_output()
    missing = [name for name in ("sqlalchemy", "argon2", "fastapi", "krippendorff", "scipy") if find_spec(name) is None]
    if missing:
        raise UserError(f"the ranking app needs {', '.join(missing)}; pip install 'lit-llm[feedback]'")
    _check_read(arguments)
    actions: dict[str, Callable[[Rank], None]] = {
        "serve": _serve, "make": _make, "import": _import, "gold": _import, "export": _export,
        "agreement": _agreement, "win_rate": _win_rate, "prioritize": _prioritize, "users": _users,
    }  # fmt: skip
    from lit_llm.feedback.store.refusals import Unavailable

    try:
        actions[arguments.action](arguments)
    except Unavailable as error:
        raise UserError(str(error)) from None


def _check_read(a: Rank) -> None:
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


def _serve(a: Rank) -> None:
    from lit_llm.feedback.web.server import serve

    store = _made(a) if a.model is not None else _changed(a)
    _ensure_admin(store, a.admin)
    serve(store, a.host, a.port, a.browser, a.https, a.hosts or ())


def _make(a: Rank) -> None:
    _ensure_admin(_made(a), a.admin)


def _made(a: Rank) -> Store:
    """The project with fresh answers of the model; all that can be checked is, before the first is computed."""
    from lit_llm.feedback.making import check_free, make
    from lit_llm.feedback.sampling import Sampling, items_to_compare, items_to_rank
    from lit_llm.feedback.store.projects import MOST_CANDIDATES, add_items

    if a.model is None or a.prompts is None:
        raise UserError(
            f"{'model' if a.model is None else 'prompts'}= is missing; rank.py model=FOLDER prompts=FILE k=4"
        )
    for name in ("max_new_tokens", "batch_size"):
        if getattr(a, name) < 1:
            raise UserError(f"{name}={getattr(a, name)}: must be at least 1")
    if not 2 <= a.k <= MOST_CANDIDATES:
        raise UserError(f"k={a.k}: a ranking has 2 to {MOST_CANDIDATES} answers")
    settings, place = _settings(a), _place(a)
    check_free(place)
    how = Sampling(a.temperature, a.max_new_tokens, a.seed)
    if a.against is None:
        found = items_to_rank(
            a.model, a.prompts, a.k, how, max_prompts=a.max_prompts, device=a.device, batch_size=a.batch_size
        )
    else:
        found = items_to_compare(
            a.model, a.against, a.prompts, how, max_prompts=a.max_prompts, device=a.device, batch_size=a.batch_size
        )
    store, _ = make(place, settings, lambda store: add_items(store, found.items))
    print(f"project {store.place}: {found}")
    return store


def _import(a: Rank) -> None:
    from lit_llm.feedback.importing import add_rows, read_items
    from lit_llm.feedback.making import is_there, make

    if a.rows is None:
        raise UserError(f"rows= is missing; rank.py action={a.action} rows=FILE project=FILE.db")
    gold = a.action == "gold"
    asked, place = read_items(a.rows, gold), _place(a)
    if is_there(place):
        store = _changed(replace(a, project=place))
        found = add_rows(store, asked, gold)
    else:
        store, found = make(place, _settings(a), lambda store: add_rows(store, asked, gold))
    print(f"project {store.place}: {found}")
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
    from lit_llm.feedback.account_changes import change

    print(change(_open(a), a.add, a.reset, a.deactivate, a.role, a.language))


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
    from lit_llm.data.projects import place_of, shown
    from lit_llm.feedback.store.engine import open_store
    from lit_llm.feedback.store.projects import settings

    if a.project is None:
        hint = " or model=FOLDER prompts=FILE" if a.action == "serve" else ""
        raise UserError(f"project= is missing; give project=FILE.db{hint}")
    try:
        store = open_store(place_of(a.project))
    except OSError as error:
        raise UserError(f"project={shown(a.project)}: cannot be read ({error.strerror or error})") from None
    settings(store)  # a database without a project is told here
    return store


def _changed(a: Rank) -> Store:
    """The project that is there, with the settings that were given."""
    from lit_llm.feedback.store.projects import change_settings

    store, given = _open(a), _given(a)
    if given:
        change_settings(store, **given)
        print(f"project {store.place}: {', '.join(f'{name}={value}' for name, value in given.items())}")
    return store


def _settings(a: Rank) -> ProjectSettings:
    from lit_llm.feedback.store.projects import ProjectSettings

    return ProjectSettings(kind="ranking" if a.against is None else "comparison", seed=a.seed, **_given(a))


def _given(a: Rank) -> dict[str, Any]:
    """The project's settings that were given."""
    given = {name: getattr(a, name) for name in _SETTINGS if getattr(a, name) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
