"""From a place to a selector that stands where the log ends."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from sqlalchemy import func, select

from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.online.settings import SearchName
from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.service.state.address import address_of
from selfilter_ray.service.state.database import Database
from selfilter_ray.service.state.errors import damaged
from selfilter_ray.service.state.identity import Identity, take_over
from selfilter_ray.service.state.replay import replay
from selfilter_ray.service.state.snapshot_file import Held
from selfilter_ray.service.state.snapshots import Snapshots
from selfilter_ray.service.state.store import End, Store
from selfilter_ray.service.state.tables import decisions
from selfilter_ray.service.state.tally import Tally

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Opened:
    """An open state.

    Attributes:
        end: of the log; memory is there, too.
        replayed: records after the snapshot.
        started_at: seconds, UTC.
    """

    database: Database
    store: Store
    identity: Identity
    selector: OnlineSelector
    tally: Tally
    snapshots: Snapshots
    end: End
    replayed: int
    started_at: float
    recovery_seconds: float

    def close(self) -> None:
        self.snapshots.close()
        self.database.close()


def open_state(config: ServiceConfig, features: int, base: float, holder: str) -> Opened:
    """See ``SelectionWriter.open``."""
    began, started_at = time.monotonic(), time.time()
    address = address_of(config)
    database = Database(address, holder)
    snapshots = Snapshots(address.snapshots, config.snapshots)
    try:
        with database.transaction() as connection:
            own, epoch = take_over(
                connection, address.shown, config.online, features, base, database.holder
            )
        store = Store(database, epoch, own.genesis)
        end = store.end()
        _check_count(store, end)
        selector, tally, before = _start(store, own, snapshots, end, config.search)
        replayed = replay(store, selector, tally, before, end)
    except BaseException:
        snapshots.close()
        database.close()
        raise
    seconds = round(time.monotonic() - began, 3)
    log.info("state open at %d after %.1f s, %d replayed", end.sequence, seconds, replayed)
    return Opened(
        database, store, own, selector, tally, snapshots, end, replayed, started_at, seconds
    )


def _start(
    store: Store, own: Identity, snapshots: Snapshots, end: End, search: SearchName
) -> tuple[OnlineSelector, Tally, bytes]:
    """The selector of the newest snapshot, or an empty one; and the checksum it stands at."""
    held = snapshots.load(lambda held: _against(held, store, own, end))
    if held is None:
        empty = OnlineSelector(own.settings, own.features, own.base, search)
        return empty, Tally(), own.genesis
    return OnlineSelector.restore(held.state, search), Tally(**held.tally), held.checksum


def _against(held: Held, store: Store, own: Identity, end: End) -> str | None:
    """What speaks against a snapshot."""
    header = held.state.header
    if held.number != own.number:
        return "it belongs to another state"
    if (header["features"], header["base"]) != (own.features, own.base):
        return "it was made with other settings"
    if header["settings"] != own.settings.model_dump(mode="json"):
        return "it was made with other settings"
    if held.sequence > end.sequence:
        return (
            f"it holds {held.sequence} decisions and the log {end.sequence}: was an older log put "
            "back? What was decided since is lost"
        )
    if not held.sequence:
        return None if held.checksum == own.genesis else "its checksum is wrong"
    last = store.records([held.sequence - 1])
    if not last or last[0].checksum != held.checksum:
        return "the log holds other decisions"
    return None


def _check_count(store: Store, end: End) -> None:
    """Raises DamagedError when a record is missing anywhere, also before the snapshot."""
    with store.database.transaction() as connection:
        found = connection.execute(select(func.count()).select_from(decisions)).scalar_one()
    if found != end.sequence:
        raise damaged(store.place, f"the log has {found} records, and should have {end.sequence}")
