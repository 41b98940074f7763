"""How a log is cut back: SQLite by a new file beside the old one, PostgreSQL in one transaction."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, select, text, update

from selfilter_ray.service.messages import NotReadyError
from selfilter_ray.service.state.address import FILE, Address
from selfilter_ray.service.state.engine import make_engine
from selfilter_ray.service.state.errors import DamagedError
from selfilter_ray.service.state.identity import Identity, make_tables
from selfilter_ray.service.state.record import vector_bytes
from selfilter_ray.service.state.replay import checked
from selfilter_ray.service.state.store import End, Store
from selfilter_ray.service.state.tables import add_rows, decisions, head, previews, vectors

NEW = "repairing"
COPIED_AT_ONCE = 512
SIDE_FILES = ("-wal", "-shm")


def cut_postgresql(store: Store, own: Identity, good: End, now: datetime) -> str:
    """Rows behind the good ones go to tables of their own; where they are."""
    mark = f"_before_{now:%Y%m%d%H%M%S%f}"
    with store.database.transaction() as connection:
        for table in (decisions, vectors, previews):
            where = f"WHERE sequence >= {good.sequence}"
            connection.execute(
                text(f"CREATE TABLE {table.name}{mark} AS SELECT * FROM {table.name} {where}")
            )
            connection.execute(delete(table).where(table.c.sequence >= good.sequence))
        _set_end(connection, good)
    return f"the tables whose names end in {mark}"


def cut_sqlite(store: Store, own: Identity, good: End, now: datetime) -> str:
    """A new file with the good records takes the place of the old one; where the old one is."""
    folder = store.database.address.folder
    assert folder is not None
    fresh = folder / NEW
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    _write_good(store, own, good, fresh)
    store.database.let_go()
    backup = folder / f"before-repair-{now:%Y%m%dT%H%M%S%fZ}"
    backup.mkdir()
    for name in (FILE, *(FILE + end for end in SIDE_FILES)):
        if (folder / name).exists():
            shutil.copy2(folder / name, backup / name)
            _sync(backup / name)
    _sync(backup)
    # The log of changes of the old file must not be applied to the new one.
    for end in SIDE_FILES:
        (folder / (FILE + end)).unlink(missing_ok=True)
    os.replace(fresh / FILE, folder / FILE)
    _sync(folder)
    shutil.rmtree(fresh)
    return str(backup)


def _write_good(store: Store, own: Identity, good: End, folder: Path) -> None:
    old = store.database.address
    address = Address(old.url.set(database=str(folder / FILE)), folder, old.snapshots)
    engine = make_engine(address)
    with engine.connect() as connection, connection.begin():
        make_tables(connection, own)
        entries = checked(store, 0, own.genesis, good.sequence, COPIED_AT_ONCE)
        while part := list(islice(entries, COPIED_AT_ONCE)):
            add_rows(connection, decisions, [entry.record.row() for entry in part])
            kept = [
                (entry.record.decision.sequence, vector_bytes(entry.features_D))
                for entry in part
                if entry.features_D is not None
            ]
            add_rows(connection, vectors, kept)
        for rows in _previews(store, good.sequence):
            add_rows(connection, previews, rows)
        _set_end(connection, good)
    engine.dispose()
    if (folder / f"{FILE}-wal").exists():
        raise NotReadyError(f"the new file in {folder} could not be written whole: try again")
    _sync(folder / FILE)


def _previews(store: Store, stop: int) -> Iterator[list[tuple[Any, ...]]]:
    """Those that can be read; the page does without the others."""
    for first in range(0, stop, COPIED_AT_ONCE):
        number = previews.c.sequence
        last = min(first + COPIED_AT_ONCE, stop)
        with suppress(DamagedError), store.database.transaction() as connection:
            rows = connection.execute(select(previews).where(number >= first, number < last)).all()
            yield [tuple(row) for row in rows]


def _set_end(connection: Connection, good: End) -> None:
    values = {"sequence": good.sequence, "checksum": good.checksum, "epoch": good.epoch}
    connection.execute(update(head).values(**values))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
