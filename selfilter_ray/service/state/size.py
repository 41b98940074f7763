"""How much the log takes on disk."""

from __future__ import annotations

import time
from contextlib import suppress

from sqlalchemy import text

from selfilter_ray.service.messages import NotReadyError
from selfilter_ray.service.state.address import FILE
from selfilter_ray.service.state.store import Store
from selfilter_ray.service.state.tables import metadata

EVERY_SECONDS = 10.0
OF_TABLE = text("SELECT pg_total_relation_size(CAST(:name AS regclass))")


class StateSize:
    """Looked at with what is stored, so that asking for it never waits for the database.

    Attributes:
        bytes: of SQLite's files, or of the tables with their indexes; None before the first look.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.bytes: int | None = None
        self._looked = time.monotonic() - EVERY_SECONDS
        self.look_if_due()

    def look_if_due(self) -> None:
        if time.monotonic() - self._looked < EVERY_SECONDS:
            return
        self._looked = time.monotonic()
        with suppress(NotReadyError, OSError):  # then the last one stands
            self.bytes = self._look()

    def _look(self) -> int:
        database = self._store.database
        folder = database.address.folder
        if folder is not None:
            return sum(file.stat().st_size for file in folder.glob(f"{FILE}*"))
        with database.transaction() as connection:
            names = [{"name": table.name} for table in metadata.sorted_tables]
            return sum(connection.execute(OF_TABLE, name).scalar_one() for name in names)
