"""The tables of the durable state; the same for SQLite and PostgreSQL.

``decisions`` is the log: one row a decided sample, only ever appended to. ``head`` holds one row,
where the log ends and whose it is: every append goes through it (``store.Store.append``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Connection,
    Dialect,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    event,
    insert,
)

FORMAT = 1

metadata = MetaData()


class Bytes(LargeBinary):
    """Both drivers take and give ``bytes`` as they are: nothing to convert for each value."""

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> None:
        return None

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        return None


# In SQLite only INTEGER is the row's own number, which makes it the key at no cost.
Number = BigInteger().with_variant(Integer(), "sqlite")


def _sequence() -> Column[int]:
    return Column("sequence", Number, primary_key=True, autoincrement=False)


identity = Table(
    "selfilter_identity",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

head = Table(
    "selfilter_head",
    metadata,
    Column("only", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Number, nullable=False),
    Column("sequence", Number, nullable=False),
    Column("checksum", Bytes, nullable=False),
    Column("holder", Text, nullable=False),
)

decisions = Table(
    "selfilter_decisions",
    metadata,
    _sequence(),
    Column("id", Text, nullable=False, unique=True),
    Column("digest", Bytes, nullable=False),
    Column("epoch", Number, nullable=False),
    Column("decided_at", Double, nullable=False),
    Column("difficulty", Double, nullable=False),
    Column("adjusted", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("reason", Text, nullable=False),
    Column("nearest", Text, nullable=False),  # JSON list of ids
    Column("similarities", Bytes, nullable=False),  # float64, little endian
    Column("evicted", Text),
    Column("vector_digest", Bytes),  # of an admitted sample
    Column("checksum", Bytes, nullable=False),
)

vectors = Table(
    "selfilter_vectors",
    metadata,
    _sequence(),
    Column("features", Bytes, nullable=False),  # float32, little endian
)

previews = Table(
    "selfilter_previews",
    metadata,
    _sequence(),
    Column("text", Bytes, nullable=False),  # UTF-8; a text column takes no NUL
    Column("thumbnail", Bytes, nullable=False),  # JPEG
)

# Random numbers do not compress: PostgreSQL need not try.
event.listen(
    vectors,
    "after_create",
    DDL("ALTER TABLE selfilter_vectors ALTER COLUMN features SET STORAGE EXTERNAL").execute_if(
        dialect="postgresql"
    ),
)


def add_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows of all columns in their order.

    The drivers take each value as it is, so the statement goes to them as it was compiled: an
    insert of many rows through SQLAlchemy spends more time on its parameters than on the database.
    """
    if not rows:
        return
    statement, names = _insertion(table, connection.dialect)
    if names is None:
        connection.exec_driver_sql(statement, list(rows))
    else:
        values = [dict(zip(names, row, strict=True)) for row in rows]
        connection.exec_driver_sql(statement, values)


@lru_cache(maxsize=16)
def _insertion(table: Table, dialect: Dialect) -> tuple[str, list[str] | None]:
    """The statement, and the names of its values where the driver takes them by name."""
    compiled = insert(table).compile(dialect=dialect)
    names = None if compiled.positional else [column.name for column in table.columns]
    return str(compiled), names
