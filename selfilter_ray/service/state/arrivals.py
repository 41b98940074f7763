"""What the writer makes of arriving samples before and after they are decided on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from selfilter_ray.online.decision import Decision, Invalid
from selfilter_ray.service.messages import Arrival, Refused
from selfilter_ray.service.state.record import Record

# An index of PostgreSQL takes entries of up to 2,704 bytes.
ID_BYTES = 2048


def runs(arrivals: Sequence[Arrival]) -> Iterator[list[Arrival]]:
    """Parts without a repeated id, so that a repetition meets the decision on the first."""
    run: list[Arrival] = []
    ids: set[str] = set()
    for arrival in arrivals:
        if arrival.id in ids:
            yield run
            run, ids = [], set()
        run.append(arrival)
        ids.add(arrival.id)
    if run:
        yield run


def bad_id(arrival: Arrival) -> Refused | None:
    """An id that one of the databases could not store, refused; None for a good one."""
    try:
        size = len(arrival.id.encode())
    except UnicodeEncodeError:
        size = 0
    if 0 < size <= ID_BYTES and "\0" not in arrival.id:
        return None
    return Refused(
        arrival.id,
        "id",
        422,
        f"the id is empty, longer than {ID_BYTES} bytes, or not text that can be stored",
        "send an id of printable characters",
    )


def known(arrival: Arrival, record: Record) -> Decision | Refused:
    """The answer to an id that was decided on before."""
    if arrival.digest == record.digest:
        return record.decision
    return Refused(
        arrival.id,
        "id_conflict",
        409,
        f"the id was decided on with other content (sequence {record.decision.sequence})",
        "send other content under an id of its own",
    )


def refused(invalid: Invalid) -> Refused:
    detail, _, remedy = invalid.detail.partition(": ")
    return Refused(invalid.id, invalid.fault, 422, detail, remedy)
