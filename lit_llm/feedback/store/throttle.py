"""Failed log-ins slow the next ones down: kept in the database, so that a restart or a second server forgets nothing.

Three counts over the last quarter of an hour: of a name from one address, of an address, of a name from anywhere. Past
its free attempts each further one doubles the wait, up to a quarter of an hour. The count of a name alone is generous,
so that nobody can easily lock somebody else out.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from lit_llm.feedback.store.refusals import Throttled
from lit_llm.feedback.store.tables import LoginAttemptRow as Attempt
from lit_llm.feedback.store.tables import ProjectRow

WINDOW = 900.0  # seconds
FREE_FROM_ADDRESS_TO_NAME = 5
FREE_FROM_ADDRESS = 30
FREE_TO_NAME = 100


def count(session: Session, key: str, address: str, now: float) -> None:
    """Counts an attempt, or raises Throttled with the seconds until one is taken."""
    address = _shortened(address)
    session.execute(select(ProjectRow.id).with_for_update())  # attempts at once are counted one after the other
    session.execute(delete(Attempt).where(Attempt.at < now - WINDOW))
    named, placed = Attempt.name_key == key, Attempt.address == address
    wait = max(
        _wait(session, now, FREE_FROM_ADDRESS_TO_NAME, named, placed),
        _wait(session, now, FREE_FROM_ADDRESS, placed),
        _wait(session, now, FREE_TO_NAME, named),
    )
    if wait > 0:
        raise Throttled(wait)
    session.add(Attempt(name_key=key, address=address, at=now))


def forget(session: Session, key: str, address: str | None = None) -> None:
    """After a success: the attempts from that address at that name no longer count (None: from any address)."""
    chosen = [Attempt.name_key == key]
    if address is not None:
        chosen.append(Attempt.address == _shortened(address))
    session.execute(delete(Attempt).where(*chosen))


def _wait(session: Session, now: float, free: int, *which: ColumnElement[bool]) -> float:
    attempts, last = session.execute(select(func.count(), func.max(Attempt.at)).where(*which)).one()
    if attempts < free:
        return 0.0
    return float(last + min(2.0 ** min(attempts - free, 20), WINDOW) - now)


def _shortened(address: str) -> str:
    return address.replace("\0", "")[:80]
