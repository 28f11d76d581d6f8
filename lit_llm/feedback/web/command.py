"""``scripts/rank.py``: makes ranking projects, serves them, and takes rankings in and out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_llm.errors import UserError
from lit_llm.feedback.rank_arguments import SETTINGS, Rank, check_read
from lit_llm.runtime.arguments import run_command
from lit_llm.runtime.atomic_files import write_json
from lit_llm.runtime.terminal import utf8_output

if TYPE_CHECKING:
    from lit_llm.feedback.store.engine import Store
    from lit_llm.feedback.store.projects import ProjectSettings


def main() -> None:
    """The command line (lit-llm-rank)."""
    run_command(Rank, run)


def run(arguments: Rank) -> None:
    """Does what ``action`` says. Raises UserError for whatever the user can mend."""
    utf8_output()
    missing = [name for name in ("sqlalchemy", "argon2", "fastapi", "krippendorff", "scipy") if find_spec(name) is None]
    if missing:
        raise UserError(f"the ranking app needs {', '.join(missing)}; pip install 'lit-llm[feedback]'")
    check_read(arguments)
    actions: dict[str, Callable[[Rank], None]] = {
        "serve": _serve, "make": _make, "import": _import, "gold": _import, "export": _export,
        "agreement": _agreement, "win_rate": _win_rate, "prioritize": _prioritize, "users": _users,
    }  # fmt: skip
    from lit_llm.feedback.store.refusals import Unavailable

    try:
        actions[arguments.action](arguments)
    except Unavailable as error:
        raise UserError(str(error)) from None


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
            write_json(a.output, found)
        except OSError as error:
            raise UserError(f"output={a.output}: cannot be written ({error.strerror})") from None


def _prioritize(a: Rank) -> None:
    from lit_llm.feedback.uncertainty import prioritize

    count = prioritize(_open(a), a.reward or [])
    print(f"{count} items: those that the reward model is least sure of come first")


def _users(a: Rank) -> None:
    from lit_llm.feedback.web.account_changes import change

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
    given = {name: getattr(a, name) for name in SETTINGS if getattr(a, name) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
