"""The newest admitted and rejected samples, as the live page shows them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from selfilter_ray.online.decision import Decision
from selfilter_ray.service.state.activity import Activity, finite
from selfilter_ray.service.state.record import Record
from selfilter_ray.service.state.store import Store


def recent(store: Store, activity: Activity, limit: int) -> dict[str, Any]:
    """``{"admitted": [item], "rejected": [item]}``, newest first; see the writer."""
    admitted = list(islice(reversed(activity.admitted), limit))
    rejected = list(islice(reversed(activity.rejected), limit))
    neighbours = store.find(_nearest_ids(rejected))
    sequences = [record.decision.sequence for record in (*admitted, *rejected)]
    sequences += [record.decision.sequence for record in neighbours.values()]
    shown = store.shown(sequences)
    return {
        "admitted": [_item(record, shown) for record in admitted],
        "rejected": [
            _item(record, shown) | {"neighbour": _neighbour(record, neighbours, shown)}
            for record in rejected
        ],
    }


def answer(decision: Decision) -> dict[str, Any]:
    """A decision as the HTTP interface gives it."""
    values: dict[str, Any] = {
        "id": decision.id,
        "admitted": decision.admitted,
        "reason": decision.reason,
        "difficulty": decision.difficulty,
        "adjusted": decision.adjusted,
        "threshold": finite(decision.threshold),
        "nearest": [
            {"id": id, "similarity": similarity}
            for id, similarity in zip(decision.nearest, decision.similarities, strict=True)
        ],
        "sequence": decision.sequence,
    }
    if decision.evicted is not None:
        values["evicted"] = decision.evicted
    return values


def _nearest_ids(records: Iterable[Record]) -> list[str]:
    return list({record.decision.nearest[0] for record in records if record.decision.nearest})


def _item(record: Record, shown: dict[int, tuple[str, bool]]) -> dict[str, Any]:
    text, thumbnail = shown.get(record.decision.sequence, ("", False))
    return {
        **answer(record.decision),
        "decided_at": record.decided_at,
        "text": text,
        "thumbnail": thumbnail,
    }


def _neighbour(
    record: Record, neighbours: dict[str, Record], shown: dict[int, tuple[str, bool]]
) -> dict[str, Any] | None:
    decision = record.decision
    if not decision.nearest or decision.nearest[0] not in neighbours:
        return None
    sequence = neighbours[decision.nearest[0]].decision.sequence
    return {
        "id": decision.nearest[0],
        "sequence": sequence,
        "similarity": decision.similarities[0],
        "thumbnail": shown.get(sequence, ("", False))[1],
    }
