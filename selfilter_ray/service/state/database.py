"""The one connection that writes; it comes back by itself after a failure."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from selfilter_ray.errors import ArtifactError
from selfilter_ray.service.messages import NotReadyError
from selfilter_ray.service.state.address import LOCK, Address
from selfilter_ray.service.state.engine import READS, make_engine
from selfilter_ray.service.state.errors import DamagedError, damaged
from selfilter_ray.service.state.lease import FileLease, described, held, take_session_lock
from selfilter_ray.service.state.tables import head

log = logging.getLogger(__name__)
READ_ONLY = ("readonly database", "unable to open")
BROKEN = ("malformed", "not a database", "unsupported file format")


class Database:
    """Holds the lease from its making to ``close``.

    Raises:
        LeaseHeldError: when another process writes to this state.
        ArtifactError: when it cannot be written.
        NotReadyError: when the database does not answer.
    """

    def __init__(self, address: Address, holder: str) -> None:
        self.address, self.holder = address, described(holder)
        self._engine = make_engine(address)
        self._connection: Connection | None = None
        self._lease: FileLease | None = None
        if address.folder is not None:
            self._lease = FileLease(address.folder / LOCK, self.holder)
        try:
            with _translated(address, opening=True):
                self._connection = self._connect(first=True)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Committed and durable at the end; rolled back on any error.

        Raises:
            NotReadyError: when the database does not answer or cannot write. Whether a commit that
                failed has come through is then unknown.
            DamagedError: when the file is not what a database file must be.
        """
        try:
            with _translated(self.address):
                if self._connection is None:
                    self._connection = self._connect(first=False)
                with self._connection.begin():
                    yield self._connection
        except (DamagedError, NotReadyError):
            self._drop()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection of its own, for another thread; it never holds up the writer."""
        with _translated(self.address), self._engine.connect() as connection:
            connection = connection.execution_options(**READS)
            with connection.begin():
                yield connection

    def let_go(self) -> None:
        """Of the connection; the lease stays, and the next transaction connects again."""
        self._drop()

    def close(self) -> None:
        self._drop()
        self._engine.dispose()
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def _connect(self, first: bool) -> Connection:
        connection = self._engine.connect()
        try:
            if self.address.folder is None:
                self._take_lock(connection, first)
        except BaseException:
            connection.close()
            raise
        return connection

    def _take_lock(self, connection: Connection, first: bool) -> None:
        with connection.begin():
            encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
            if encoding != "UTF8":
                raise ArtifactError(
                    f"the database {self.address.shown} stores text as {encoding}: make one with "
                    "ENCODING 'UTF8'."
                )
            if take_session_lock(connection):
                return
            other = ""
            if inspect(connection).has_table(head.name):
                other = connection.execute(select(head.c.holder)).scalar() or ""
        if first:
            raise held(self.address.shown, other)
        raise NotReadyError(f"the lease of {self.address.shown} is with another session: {other}")

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # A broken connection may not even close.
            with suppress(SQLAlchemyError):
                connection.invalidate()
            with suppress(SQLAlchemyError):
                connection.close()


@contextmanager
def _translated(address: Address, opening: bool = False) -> Iterator[None]:
    """What a driver raises, as the errors of the service."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        # The driver's words alone: SQLAlchemy adds the statement and its values.
        words = str(getattr(error, "orig", error)).strip() or type(error).__name__
        said = words.splitlines()[0]
        if any(word in said for word in BROKEN):
            raise damaged(address.shown, said) from None
        if opening and any(word in said for word in READ_ONLY):
            raise ArtifactError(
                f"the database in {address.shown} cannot be written ({said}): give this user the "
                "right to write to the folder and its files."
            ) from None
        log.error("the database in %s failed: %s", address.shown, said)
        raise NotReadyError(f"the state cannot be written: {said}") from None
