"""The log, read from a place on, checked record by record, and given to a selector.

Shapes: D features.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import select

from selfilter_ray.errors import ArtifactError
from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.service.state.errors import damaged
from selfilter_ray.service.state.record import Record, follows, vector_digest
from selfilter_ray.service.state.store import End, Store, parsed
from selfilter_ray.service.state.tables import decisions, vectors
from selfilter_ray.service.state.tally import Tally

READ_AT_ONCE = 8192


class Entry(NamedTuple):
    """A record, and its features where it was admitted."""

    record: Record
    features_D: np.ndarray | None


def replay(store: Store, selector: OnlineSelector, tally: Tally, before: bytes, end: End) -> int:
    """Bring a selector from its sequence to the end of the log; how many records that took.

    Args:
        before: checksum of the last record that the selector knows.

    Raises:
        DamagedError: when a record is missing, or is not what was written.
    """
    began = selector.sequence
    # Nothing here refers to itself, and there is much of it: looking for cycles is in vain.
    collects = gc.isenabled()
    gc.disable()
    try:
        last = _follow(store, selector, tally, before, end)
    finally:
        if collects:
            gc.enable()
    if last != end.checksum:
        raise damaged(store.place, f"its end is not that of record {selector.sequence - 1}")
    return selector.sequence - began


def _follow(store: Store, selector: OnlineSelector, tally: Tally, last: bytes, end: End) -> bytes:
    """The checksum of the last record."""
    entries = checked(store, selector.sequence, last, end.sequence)
    while part := list(islice(entries, READ_AT_ONCE)):
        try:
            selector.follow_all(
                [entry.record.decision for entry in part], [entry.features_D for entry in part]
            )
        except ArtifactError as error:
            raise damaged(store.place, str(error)) from error
        for entry in part:
            tally.count(entry.record.decision)
        last = part[-1].record.checksum
    return last


def checked(
    store: Store, start: int, before: bytes, stop: int, at_once: int = READ_AT_ONCE
) -> Iterator[Entry]:
    """The records from one place to another, as long as each follows the one before it.

    Raises:
        DamagedError: at the first that does not.
    """
    while start < stop:
        rows, stored = _part(store, start, min(start + at_once, stop))
        for row in rows:
            entry = _entry(store, row, start, before, stored)
            before = entry.record.checksum
            start += 1
            yield entry
        if start < stop and len(rows) < at_once:
            raise damaged(store.place, f"record {start} is missing")


def _part(store: Store, start: int, stop: int) -> tuple[Sequence[Any], dict[int, bytes]]:
    here, there = decisions.c.sequence, vectors.c.sequence
    with store.database.transaction() as connection:
        rows = connection.execute(
            select(decisions).where(here >= start, here < stop).order_by(here)
        ).all()
        pairs = connection.execute(select(vectors).where(there >= start, there < stop)).all()
    return rows, {row[0]: row[1] for row in pairs}


def _entry(
    store: Store, row: Sequence[Any], sequence: int, before: bytes, stored: dict[int, bytes]
) -> Entry:
    if row[0] != sequence:
        raise damaged(store.place, f"record {sequence} is missing")
    record = parsed(row)
    if record is None or not follows(record, before):
        raise damaged(store.place, f"record {sequence} is not what was written")
    if not record.decision.admitted:
        return Entry(record, None)
    data = stored.get(sequence)
    if data is None or vector_digest(data) != record.vector_digest:
        raise damaged(store.place, f"the features of record {sequence} are not what was written")
    return Entry(record, np.frombuffer(data, "<f4").astype(np.float32, copy=False))
