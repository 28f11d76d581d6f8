"""Accounts of annotators, adjudicators and admins: made by the admin, passwords kept as argon2 hashes."""

from __future__ import annotations

import secrets
import unicodedata
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lit_llm.errors import UserError
from lit_llm.feedback.store import throttle
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.storable import unstorable
from lit_llm.feedback.store.tables import ROLES, AnnotatorRow, ProjectRow

SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 1024  # argon2 reads all of it: a password of megabytes would be an attack

_hasher = PasswordHasher()
_NOBODY = _hasher.hash(secrets.token_urlsafe())  # checked for unknown names, which then take as long as known ones


@dataclass(frozen=True)
class Account:
    id: int
    name: str
    pseudonym: str  # how exports call the annotator
    role: str  # annotator, adjudicator, admin
    language: str
    active: bool
    session_version: int  # a log-in made under another one has ended
    simulated: bool = False  # a program that plays an annotator


@dataclass(frozen=True)
class NewAccount:
    id: int
    name: str
    pseudonym: str
    password: str  # shown once: only its hash is kept


def add_annotator(
    store: Store,
    name: str,
    password: str | None = None,
    role: str = "annotator",
    language: str = "en",
) -> NewAccount:
    """Makes an account; without ``password`` one is drawn.

    Raises UserError for a name that is taken or not usable, a password of fewer than 8 characters, an unknown role.
    """
    shown = _checked_name(name)
    if role not in ROLES:
        raise UserError(f"role={role}: must be one of {', '.join(ROLES)}")
    password, hashed = _hashed(password)
    with store.write() as session:
        session.execute(select(ProjectRow.id).with_for_update())  # two accounts of one name: the second waits
        if session.scalar(select(AnnotatorRow.id).where(AnnotatorRow.name_key == name_key(shown))) is not None:
            raise UserError(f"{shown}: there is an account of that name already")
        row = AnnotatorRow(
            name=shown,
            name_key=name_key(shown),
            pseudonym=f"annotator-{secrets.token_hex(4)}",  # drawn: it cannot be computed from the name
            password_hash=hashed,
            role=role,
            language=language,
            created_at=store.now(),
        )
        session.add(row)
        session.flush()
        return NewAccount(row.id, row.name, row.pseudonym, password)


def authenticate(store: Store, name: str, password: str, address: str = "") -> Account | None:
    """The account whose name and password these are, else None. Raises Throttled after too many failures.

    The attempt is counted before the password is looked at, so many at once gain nothing.
    """
    key = name_key(name)
    with store.write() as session:
        throttle.count(session, key, address, store.now())
        row = session.scalar(select(AnnotatorRow).where(AnnotatorRow.name_key == key))
        known, hashed = (row.id, row.password_hash) if row is not None and row.active else (None, _NOBODY)
    if not _matches(hashed, password) or known is None:
        return None
    with store.write() as session:
        row = session.get(AnnotatorRow, known)
        if row is None or not row.active or row.password_hash != hashed:  # changed in between
            return None
        throttle.forget(session, key, address)
        if _hasher.check_needs_rehash(hashed):
            row.password_hash = _hasher.hash(password)
        return _account(row)


def account(store: Store, annotator_id: int) -> Account | None:
    """None when there is no such account; it may be inactive."""
    with store.read() as session:
        row = session.get(AnnotatorRow, annotator_id)
        return None if row is None else _account(row)


def annotators(store: Store) -> list[Account]:
    """All accounts, oldest first."""
    with store.read() as session:
        return [_account(row) for row in session.scalars(select(AnnotatorRow).order_by(AnnotatorRow.id))]


def set_password(store: Store, annotator_id: int, password: str | None = None) -> str:
    """Sets (or draws) a password and returns it; ends the sessions and the throttling of the account."""
    password, hashed = _hashed(password)
    with store.write() as session:
        row = _row(session, annotator_id)
        row.password_hash = hashed
        row.session_version += 1
        throttle.forget(session, row.name_key)
    return password


def set_language(store: Store, annotator_id: int, language: str) -> None:
    """The language of the pages for this annotator."""
    with store.write() as session:
        _row(session, annotator_id).language = language


def deactivate(store: Store, annotator_id: int) -> None:
    """Ends the account's sessions and takes no log-in any more; its rankings stay. UserError for the last admin."""
    with store.write() as session:
        session.execute(select(ProjectRow.id).with_for_update())  # two admins who end each other: the second is told
        row = _row(session, annotator_id)
        admins = select(func.count()).where(AnnotatorRow.role == "admin", AnnotatorRow.active)
        if row.role == "admin" and row.active and session.scalar(admins) == 1:
            raise UserError(f"{row.name}: is the last admin, who stays; make another one first")
        row.active = False
        row.session_version += 1


def end_sessions(store: Store, annotator_id: int) -> None:
    """Ends every log-in of the account; it may log in again."""
    with store.write() as session:
        _row(session, annotator_id).session_version += 1


def name_key(name: str) -> str:
    """The name as it is compared: Ann, ANN and the full-width Ａｎｎ are one."""
    folded = unicodedata.normalize("NFKC", str(name).replace("\0", "")).strip().casefold()
    return folded.encode("utf-8", "replace").decode("utf-8")[:200]


def _checked_name(name: str) -> str:
    shown = unicodedata.normalize("NFC", name).strip()
    problem = unstorable(shown, 80)
    if problem is None and (not shown or any(unicodedata.category(c).startswith("C") for c in shown)):
        problem = "is no name; letters, digits, spaces and signs make one"
    if problem is not None:
        raise UserError(f"name={name!r}: {problem}")
    return shown


def _hashed(password: str | None) -> tuple[str, str]:
    if password is None:
        password = secrets.token_urlsafe(9)
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise UserError(f"the password has {len(password)} characters; {SHORTEST_PASSWORD} is the least")
    return password, _hasher.hash(password.encode("utf-8", "surrogatepass"))


def _matches(hashed: str, password: str) -> bool:
    try:
        fits = len(password) <= LONGEST_PASSWORD
        return _hasher.verify(hashed, password.encode("utf-8", "surrogatepass") if fits else b"") and fits
    except (VerificationError, InvalidHashError):
        return False


def _row(session: Session, annotator_id: int) -> AnnotatorRow:
    row = session.get(AnnotatorRow, annotator_id)
    if row is None:
        raise UserError(f"annotator {annotator_id}: there is no such account")
    return row


def _account(row: AnnotatorRow) -> Account:
    return Account(
        row.id, row.name, row.pseudonym, row.role, row.language, row.active, row.session_version, row.simulated
    )
