"""Cut a damaged log back to its last good record, after a copy was made.

    python -m selfilter_ray.service.state.repair STATE [--check]

STATE is the folder of the state, or the URL of its PostgreSQL database. ``--check`` reads the whole
log and changes nothing. Exit codes: 0 all is well, or was repaired; 3 damaged.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select

from selfilter_ray.errors import SelfilterError
from selfilter_ray.service.messages import NotReadyError
from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.service.state.address import Address, address_of
from selfilter_ray.service.state.cutting import cut_postgresql, cut_sqlite
from selfilter_ray.service.state.database import Database
from selfilter_ray.service.state.errors import DamagedError
from selfilter_ray.service.state.identity import Identity, read_identity
from selfilter_ray.service.state.replay import checked
from selfilter_ray.service.state.store import End, Store
from selfilter_ray.service.state.tables import decisions

READ_AT_ONCE = 1024
NAMED = 20


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found.

    Attributes:
        good: where the log ends that can be trusted.
        fault: what is wrong behind it; None for a good log.
        lost: ids of the readable records behind it.
    """

    good: End
    fault: str | None
    lost: list[str]


def check(store: Store) -> Found:
    """Read the whole log."""
    end = store.end()
    stop = max(end.sequence, _last(store) + 1)
    good, fault = _good(store, End(end.epoch, 0, store.genesis), stop, READ_AT_ONCE)
    if fault is not None:
        # A page that cannot be read takes its part with it: go on one by one.
        good, fault = _good(store, good, stop, 1)
    if fault is None and good != end:
        fault = f"it says that it ends at {end.sequence}, and ends at {good.sequence}"
    fault = fault or _file_fault(store)
    return Found(good, fault, [] if fault is None else _readable_ids(store, good.sequence, stop))


def repair(state: str) -> str:
    """Cut the log back where it is damaged; what was done, in words.

    Raises:
        SelfilterError: when the state is in use, or cannot be read at all.
        NotReadyError: when the database does not answer.
    """
    address = address_of(ServiceConfig(run_dir=".", state=state))
    database = Database(address, "repair")
    try:
        own, store = _opened(database)
        found = check(store)
        if found.fault is None:
            return f"the log is good: {found.good.sequence} records. Nothing was changed."
        cut = cut_postgresql if address.folder is None else cut_sqlite
        copy = cut(store, own, found.good, datetime.now(UTC))
    finally:
        database.close()
    return _told(found, f"A copy of what was there is in {copy}.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="selfilter_ray.service.state.repair")
    parser.add_argument("state", help="folder of the state, or the URL of its database")
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    try:
        if arguments.check:
            _check_only(address_of(ServiceConfig(run_dir=".", state=arguments.state)))
        else:
            print(repair(arguments.state))
    except (SelfilterError, NotReadyError) as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, SelfilterError) else 1)


def _check_only(address: Address) -> None:
    database = Database(address, "check")
    try:
        found = check(_opened(database)[1])
    finally:
        database.close()
    if found.fault is not None:
        raise DamagedError(_told(found, "Nothing was changed."))
    print(f"the log is good: {found.good.sequence} records.")


def _opened(database: Database) -> tuple[Identity, Store]:
    with database.transaction() as connection:
        own = read_identity(connection, database.address.shown)
    return own, Store(database, -1, own.genesis)


def _last(store: Store) -> int:
    """The last record, also behind the end; -1 for none, or where that cannot be read."""
    try:
        with store.database.transaction() as connection:
            last = connection.execute(select(func.max(decisions.c.sequence))).scalar()
    except DamagedError:
        return -1
    return -1 if last is None else int(last)


def _file_fault(store: Store) -> str | None:
    """What is wrong with a SQLite file beside its log: an index or a preview."""
    if store.database.address.folder is None:
        return None
    try:
        with store.database.transaction() as connection:
            said = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
    except DamagedError as error:
        return error.what
    return None if said == "ok" else str(said).splitlines()[-1]


def _good(store: Store, start: End, stop: int, at_once: int) -> tuple[End, str | None]:
    """The last good record from ``start`` on, and what is wrong with the next."""
    sequence, checksum, epoch = start.sequence, start.checksum, start.epoch
    try:
        for entry in checked(store, sequence, checksum, stop, at_once):
            sequence, checksum = sequence + 1, entry.record.checksum
    except DamagedError as error:
        return End(epoch, sequence, checksum), error.what
    return End(epoch, sequence, checksum), None


def _readable_ids(store: Store, start: int, stop: int) -> list[str]:
    ids: list[str] = []
    for first in range(start, stop, READ_AT_ONCE):
        number = decisions.c.sequence
        wanted = select(decisions.c.id).where(number >= first, number < first + READ_AT_ONCE)
        try:
            with store.database.transaction() as connection:
                ids += connection.execute(wanted.order_by(number)).scalars()
        except DamagedError:
            continue  # unreadable: they are lost without a name
    return ids


def _told(found: Found, rest: str) -> str:
    named = ", ".join(repr(id) for id in found.lost[:NAMED])
    more = f" and {len(found.lost) - NAMED} more" if len(found.lost) > NAMED else ""
    return (
        f"Damaged: {found.fault}. Good are the first {found.good.sequence} records. Behind them "
        f"{len(found.lost)} can be read, and are lost by cutting: {named or 'none'}{more}. Send "
        f"those samples again. {rest}"
    )


if __name__ == "__main__":
    main()
