"""The log in a database: appended to by one writer, read by sequence or by id."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, delete, func, select, update

from selfilter_ray.service.messages import NotReadyError, Preview
from selfilter_ray.service.state.database import Database
from selfilter_ray.service.state.errors import FencedError, damaged
from selfilter_ray.service.state.record import Record, follows
from selfilter_ray.service.state.tables import add_rows, decisions, head, previews, vectors

# Values named in one statement; SQLite takes 32,766.
NAMED_AT_ONCE = 1000
before_table = decisions.alias("before")


@dataclass(frozen=True, slots=True)
class End:
    """Where the log ends.

    Attributes:
        epoch: of the newest writer.
        sequence: of the next record.
        checksum: of the last record; of the state's own number before the first one.
    """

    epoch: int
    sequence: int
    checksum: bytes


@dataclass(frozen=True, slots=True)
class Append:
    """What one transaction adds.

    Attributes:
        start, end: of the log without and with it.
        vectors: stored features of the admitted, by sequence.
        previews: by sequence.
        forgotten: sequences whose previews go.
        evicted: ids of kept samples that had to go; their previews go, too.
    """

    start: End
    end: End
    records: list[Record]
    vectors: dict[int, bytes]
    previews: dict[int, Preview] = field(default_factory=dict)
    forgotten: list[int] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)


class Store:
    """Reads and appends. Every method raises ``NotReadyError`` when the database does not answer.

    Args:
        epoch: what the writer's records carry.
    """

    def __init__(self, database: Database, epoch: int, genesis: bytes) -> None:
        self.database, self.epoch, self.genesis = database, epoch, genesis

    @property
    def place(self) -> str:
        return self.database.address.shown

    def end(self) -> End:
        """Where the log ends now, whoever wrote it."""
        with self.database.transaction() as connection:
            return read_end(connection)

    def append(self, addition: Append) -> None:
        """All of it or nothing; durable when this returns.

        Raises:
            FencedError: when another writer has taken over or the log goes on elsewhere.
        """
        start, end = addition.start, addition.end
        with self.database.transaction() as connection:
            moved = connection.execute(
                update(head)
                .where(
                    head.c.epoch == self.epoch,
                    head.c.sequence == start.sequence,
                    head.c.checksum == start.checksum,
                )
                .values(sequence=end.sequence, checksum=end.checksum)
            )
            if moved.rowcount != 1:
                raise fenced(self.place, self.epoch, read_end(connection))
            add_rows(connection, decisions, [record.row() for record in addition.records])
            add_rows(connection, vectors, list(addition.vectors.items()))
            _change_previews(connection, addition)

    def find(self, ids: Sequence[str]) -> dict[str, Record]:
        """The records of those ids that were decided on."""
        found: dict[str, Record] = {}
        for some in _in_parts(ids):
            for record in self._checked(decisions.c.id.in_(some)):
                found[record.decision.id] = record
        return found

    def records(self, sequences: Sequence[int]) -> list[Record]:
        """In the order of the log; those that are not there are left out."""
        found: list[Record] = []
        for some in _in_parts(sequences):
            found += self._checked(decisions.c.sequence.in_(some))
        return sorted(found, key=lambda record: record.decision.sequence)

    def newest(self, count: int) -> list[Record]:
        """The last so many records, in the order of the log."""
        last = self.end().sequence
        return self._checked(decisions.c.sequence >= last - count)

    def preview(self, sequence: int) -> Preview | None:
        with self.database.transaction() as connection:
            row = connection.execute(
                select(previews.c.text, previews.c.thumbnail).where(previews.c.sequence == sequence)
            ).first()
        return Preview(row[0].decode(errors="replace"), row[1]) if row else None

    def shown(self, sequences: Sequence[int]) -> dict[int, tuple[str, bool]]:
        """Text, and whether there is a thumbnail, of those that have a preview."""
        has_thumbnail = func.length(previews.c.thumbnail) > 0
        found: dict[int, tuple[str, bool]] = {}
        with self.database.transaction() as connection:
            for some in _in_parts(sequences):
                wanted = select(previews.c.sequence, previews.c.text, has_thumbnail)
                for row in connection.execute(wanted.where(previews.c.sequence.in_(some))):
                    found[row[0]] = row[1].decode(errors="replace"), bool(row[2])
        return found

    def rejected_previews(self, count: int) -> list[int]:
        """Sequences of the last so many rejected samples with a preview, oldest first."""
        wanted = (
            select(previews.c.sequence)
            .join(decisions, decisions.c.sequence == previews.c.sequence)
            .where(decisions.c.reason != "admitted")
            .order_by(previews.c.sequence.desc())
            .limit(count)
        )
        with self.database.transaction() as connection:
            return list(connection.execute(wanted).scalars())[::-1]

    def _checked(self, condition: Any) -> list[Record]:
        """Records that are as they were written, in the order of the log.

        Raises:
            NotReadyError: when one is not; no answer is made from it.
        """
        wanted: Select[Any] = (
            select(decisions, before_table.c.checksum)
            .join(before_table, before_table.c.sequence == decisions.c.sequence - 1, isouter=True)
            .where(condition)
            .order_by(decisions.c.sequence)
        )
        with self.database.transaction() as connection:
            rows = connection.execute(wanted).all()
        return [self._record(row) for row in rows]

    def _record(self, row: Sequence[Any]) -> Record:
        before = self.genesis if row[0] == 0 else row[-1]
        record = parsed(row)
        if record is None or before is None or not follows(record, before):
            raise NotReadyError(
                str(damaged(self.place, f"record {row[0]} is not what was written"))
            )
        return record


def parsed(row: Sequence[Any]) -> Record | None:
    """None when a column cannot be read."""
    try:
        return Record.from_row(row)
    except (ValueError, TypeError, struct.error):
        return None


def read_end(connection: Connection) -> End:
    row = connection.execute(select(head.c.epoch, head.c.sequence, head.c.checksum)).one()
    return End(*row)


def fenced(place: str, epoch: int, end: End) -> FencedError:
    return FencedError(
        f"another writer has taken over the state in {place}: it is at epoch {end.epoch} and "
        f"sequence {end.sequence}, this one has epoch {epoch}. Nothing was stored; stop this one.",
        retry_seconds=5.0,
    )


def _change_previews(connection: Connection, addition: Append) -> None:
    rows = [
        (sequence, preview.text.encode(errors="replace"), preview.thumbnail)
        for sequence, preview in addition.previews.items()
    ]
    add_rows(connection, previews, rows)
    if addition.forgotten:
        connection.execute(delete(previews).where(previews.c.sequence.in_(addition.forgotten)))
    if addition.evicted:
        gone = select(decisions.c.sequence).where(decisions.c.id.in_(addition.evicted))
        connection.execute(delete(previews).where(previews.c.sequence.in_(gone)))


def _in_parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), NAMED_AT_ONCE):
        yield values[start : start + NAMED_AT_ONCE]
