"""The accounts of a project as the command line changes and lists them."""

from __future__ import annotations

from lit_llm.errors import UserError
from lit_llm.feedback.store import accounts
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.web.languages import languages


def change(store: Store, add: str | None, reset: str | None, deactivate: str | None, role: str, language: str) -> str:
    """Does all that is given; with nothing given tells the accounts that there are. Returns lines for people.

    Raises UserError, before anything is done, for an unknown account or language, or a role of nobody.
    """
    known = {account.name: account for account in accounts.annotators(store)}
    for key, name in (("reset", reset), ("deactivate", deactivate)):
        if name is not None and name not in known:
            raise UserError(f"{key}={name}: there is no such account; there are {', '.join(known) or 'none'}")
    if language not in languages():
        raise UserError(f"language={language}: must be one of {', '.join(languages())}")
    if add is None and (role, language) != ("annotator", "en"):
        raise UserError("role= and language= are of a new account; add=NAME makes one")
    lines = []
    if add is not None:
        new = accounts.add_annotator(store, add, role=role, language=language)
        lines.append(f"{new.name} ({role}, in exports {new.pseudonym}), password {new.password} (shown this once)")
    if reset is not None:
        lines.append(f"{reset}: password {accounts.set_password(store, known[reset].id)} (shown this once)")
    if deactivate is not None:
        accounts.deactivate(store, known[deactivate].id)
        lines.append(f"{deactivate}: may log in no more; the rankings stay")
    return "\n".join(lines) or "\n".join(
        f"{one.name}  {one.role}  {one.pseudonym}{'' if one.active else '  (inactive)'}" for one in known.values()
    )
