"""Accounts of annotators, adjudicators and admins: made by the admin, passwords kept as argon2 hashes."""

from __future__ import annotations

from dataclasses import dataclass

from lit_llm.feedback.store.engine import Store


@dataclass(frozen=True)
class Account:
    id: int
    name: str
    pseudonym: str  # how exports call the annotator
    role: str  # annotator, adjudicator, admin
    language: str
    active: bool
    session_version: int  # a log-in made under another one has ended


@dataclass(frozen=True)
class NewAccount:
    id: int
    name: str
    pseudonym: str
    password: str  # shown once: only its hash is kept


def add_annotator(
    store: Store, name: str, password: str | None = None, role: str = "annotator", language: str = "en"
) -> NewAccount:
    """Makes an account; without ``password`` one is drawn. Raises UserError for a name that is taken or not usable,
    a password of fewer than 8 characters, an unknown role."""
    raise NotImplementedError


def authenticate(store: Store, name: str, password: str, address: str = "") -> Account | None:
    """The account whose name and password these are, else None. Raises Throttled after too many failures."""
    raise NotImplementedError


def account(store: Store, annotator_id: int) -> Account | None:
    """None when there is no such account; it may be inactive."""
    raise NotImplementedError


def annotators(store: Store) -> list[Account]:
    """All accounts, oldest first."""
    raise NotImplementedError


def set_password(store: Store, annotator_id: int, password: str | None = None) -> str:
    """Sets (or draws) a password and returns it; ends the sessions and the throttling of the account."""
    raise NotImplementedError


def set_language(store: Store, annotator_id: int, language: str) -> None:
    """The language of the pages for this annotator."""
    raise NotImplementedError


def deactivate(store: Store, annotator_id: int) -> None:
    """Ends the account's sessions and takes no log-in any more; its rankings stay. UserError for the last admin."""
    raise NotImplementedError


def session_version(store: Store, annotator_id: int) -> int | None:
    """What a session must have been made under to be good; None when the account is gone or inactive."""
    raise NotImplementedError
