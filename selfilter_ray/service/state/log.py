"""The whole log of a state that no service is using, for whoever wants to look at it."""

from __future__ import annotations

from collections.abc import Iterator

from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.service.state.address import address_of
from selfilter_ray.service.state.database import Database
from selfilter_ray.service.state.identity import read_identity
from selfilter_ray.service.state.replay import Entry, checked
from selfilter_ray.service.state.store import Store


def read_log(config: ServiceConfig) -> Iterator[Entry]:
    """Every record in its order, checked, with its features where it was admitted.

    Raises:
        LeaseHeldError: when a service is using the state.
        DamagedError: at the first record that is not what was written.
    """
    address = address_of(config)
    database = Database(address, "a reader of the log")
    try:
        with database.transaction() as connection:
            own = read_identity(connection, address.shown)
        store = Store(database, -1, own.genesis)
        yield from checked(store, 0, own.genesis, store.end().sequence)
    finally:
        database.close()
