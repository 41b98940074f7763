"""Connections to the database that wait for the disk before they say that something is stored."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from selfilter_ray.service.state.address import Address

# Half a row of 1,536 features or three of 512 in a page, without much space between.
PAGE_BYTES = 8192
CACHE_KIB = 65_536
BUSY_SECONDS = 5
# A client that is gone loses its session, and the lease with it, within half a minute.
POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "application_name": "selfilter",
    "options": "-c synchronous_commit=on -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 "
    "-c tcp_keepalives_count=3",
}
READS = {"selfilter_reads": True}


def make_engine(address: Address) -> Engine:
    """Nothing is connected yet."""
    if address.folder is None:
        return create_engine(
            address.url, poolclass=NullPool, connect_args=POSTGRESQL, hide_parameters=True
        )
    engine = create_engine(
        address.url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"cache_size = -{CACHE_KIB}",
        "cell_size_check = ON",
        "trusted_schema = OFF",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("selfilter_reads")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
