"""Opens a project's database: a file of SQLite, or any URL that SQLAlchemy knows.

SQLite writes ahead (WAL) and to the disk before it answers (synchronous=FULL): what was acknowledged survives a
kill and a power cut. A write begins with BEGIN IMMEDIATE: a transaction that first reads and then wants to write
cannot be refused in the middle, it waits at its beginning. A file that may not be written can be read: opening writes
nothing. Elsewhere (PostgreSQL) writes are READ COMMITTED and take row locks: each statement then sees what was
committed before it, which assignment.py builds on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, insert, inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from lit_llm.errors import UserError
from lit_llm.feedback.store.refusals import Unavailable
from lit_llm.feedback.store.tables import APPLICATION, SCHEMA_VERSION, Base, Schema

BUSY_SECONDS = 30  # how long a writer waits for the other writers of an SQLite file
_SQLITE_HEADER = b"SQLite format 3\0"


class Store:
    """An open project. Sessions come from ``read()`` and ``write()``; both may be used from any thread."""

    def __init__(self, engine: Engine, place: str, clock: Callable[[], float] = time.time) -> None:
        """``place`` is how the store is named to people (without a password); ``clock`` tells the time."""
        self.place = place
        self.engine = engine
        self.now = clock
        if engine.dialect.name == "sqlite":
            self._reader, self._writer = engine, engine.execution_options(writes=True)
        else:
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ")
            self._writer = engine.execution_options(isolation_level="READ COMMITTED")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database throughout, and writes nothing."""
        with self._session(self._reader) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: all of it is on the disk when the block ends, or none. Raises Unavailable."""
        with self._session(self._writer) as session:
            session.connection()  # begins, and waits for other writers, before anything is read
            yield session
            session.commit()

    @contextmanager
    def _session(self, bind: Engine) -> Iterator[Session]:
        try:
            with Session(bind, expire_on_commit=False) as session:
                yield session
        except OperationalError as error:
            raise Unavailable(f"{self.place}: {_reason(error)}") from error

    def close(self) -> None:
        """Closes every connection."""
        self.engine.dispose()


def open_store(place: str | Path, create: bool = False, clock: Callable[[], float] = time.time) -> Store:
    """Opens the project at ``place`` (FILE.db or an SQLAlchemy URL); with ``create`` it is made where there is none.

    Waits for no writer, unless ``create``. Raises UserError for a file or database that is no project, or one of a
    newer version, or cannot be reached.
    """
    url, shown = _url(place, create)
    try:
        engine = _engine(url)
        store = Store(engine, shown, clock)
        with (store._writer if create else store._reader).begin() as connection:
            _prepare(connection, shown, create)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        hint = "pip install 'lit-llm[postgresql]'"
        raise UserError(f"{shown}: no driver for {url.drivername} ({error}); {hint}") from None
    except DBAPIError as error:
        raise UserError(f"{shown}: cannot be opened as a ranking project ({_reason(error)})") from None
    return store


def _url(place: str | Path, create: bool) -> tuple[URL, str]:
    """The address of ``place`` and how it is shown. A file is looked at before SQLite would make an empty one."""
    if isinstance(place, str) and "://" in place:
        try:
            url = make_url(place)
        except (ArgumentError, ValueError):
            raise UserError(f"{place.partition('://')[0]}://...: is no database URL that SQLAlchemy can read") from None
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() != "sqlite":
            return url, url.render_as_string(hide_password=True)
        place = url.database or ""
    path = Path(place)
    try:
        _check_file(path, create)
        return _file_url(path.resolve()), str(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened as a ranking project ({error.strerror or error})") from None


def _file_url(path: Path) -> URL:
    """A file that may not be written is opened to be read; where not even SQLite's lock files can be made beside it, as
    one that nobody changes."""
    if not path.exists() or os.access(path, os.W_OK):
        return URL.create("sqlite", database=str(path))
    alone = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    how = {"uri": "true", "mode": "ro"} | ({"immutable": "1"} if alone else {})
    return URL.create("sqlite", database=f"file:{quote(str(path))}", query=how)


def _check_file(path: Path, create: bool) -> None:
    """Raises UserError for what is no project; OSError where the system refuses a look."""
    if path.is_dir() or str(path) in ("", ".", ":memory:"):
        raise UserError(f"{path}: is no file; a ranking project is a file such as rankings.db")
    if not path.exists():
        if not create:
            raise UserError(f"{path}: there is no such ranking project; rank.py model=... prompts=... makes one")
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    with path.open("rb") as file:
        head = file.read(len(_SQLITE_HEADER))
    if head and head != _SQLITE_HEADER:
        raise UserError(f"{path}: is no ranking project (not an SQLite database)")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _read_sqlite if url.query.get("mode") == "ro" else _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _read_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # Python's driver must not begin transactions of its own


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):  # kept in the file: setting it is a write
        connection.execute("PRAGMA journal_mode=WAL")
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _prepare(connection: Connection, shown: str, create: bool) -> None:
    """Checks whose database it is, and its version; makes the tables where there are none."""
    if create and connection.dialect.name == "postgresql":  # two that make the tables at once: one waits
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('lit-llm ranking project'))"))
    tables = set(inspect(connection).get_table_names())
    if Schema.__tablename__ not in tables:
        taken = tables & set(Base.metadata.tables)
        if not create or taken or (tables and connection.dialect.name == "sqlite"):
            raise UserError(f"{shown}: is no ranking project (its tables: {', '.join(sorted(tables)[:5]) or 'none'})")
        Base.metadata.create_all(connection)
        _make_append_only(connection)
        connection.execute(insert(Schema).values(version=SCHEMA_VERSION, application=APPLICATION))
        return
    found = connection.execute(select(Schema.version, Schema.application)).first()
    if found is None or found.application != APPLICATION:
        raise UserError(f"{shown}: is no ranking project (it belongs to another program)")
    if found.version != SCHEMA_VERSION:
        age = "a newer" if found.version > SCHEMA_VERSION else "an older"
        versions = f"tables of version {found.version}, here {SCHEMA_VERSION}"
        raise UserError(f"{shown}: was made by {age} release ({versions})")


def _make_append_only(connection: Connection) -> None:
    """Whatever a program does: a revision is neither changed nor deleted."""
    if connection.dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER revision_no_{verb.lower()} BEFORE {verb} ON annotation_revision "
                "BEGIN SELECT RAISE(ABORT, 'revisions are append-only'); END"
            )
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "CREATE FUNCTION revision_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'revisions are append-only'; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER revision_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON annotation_revision "
            "FOR EACH STATEMENT EXECUTE FUNCTION revision_is_append_only()"
        )


def _reason(error: DBAPIError) -> str:
    """The driver's first line: no statement, no values."""
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
