"""A selector's state, taken without stopping it for long.

What is beside the vectors is copied at once: about 60 bytes a sample, 160 with a budget. The
vectors follow part by part, from a thread beside the admissions. A slot whose sample was evicted
meanwhile may hold another one: such a row is read from the database. Shapes: K kept samples, C rows
of a part, D features.
"""

from __future__ import annotations

import numpy as np
from sqlalchemy import select

from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.service.state.errors import damaged
from selfilter_ray.service.state.identity import Identity
from selfilter_ray.service.state.snapshot_file import Held
from selfilter_ray.service.state.snapshots import Capture
from selfilter_ray.service.state.store import End, Store
from selfilter_ray.service.state.tables import vectors
from selfilter_ray.service.state.tally import Tally


def capture(
    selector: OnlineSelector, store: Store, own: Identity, end: End, tally: Tally
) -> Capture:
    """Called by the writer's thread, when memory and log agree."""
    state = selector.export(features=False)
    held = Held(state, end.checksum, own.number, tally.to_json())
    slots_K, sequence_K = selector.kept.slots(), state.arrays["sequence_K"]

    def rows(start: int, stop: int) -> np.ndarray:
        slots_C, sequence_C = slots_K[start:stop], sequence_K[start:stop]
        rows_CD = selector.kept.rows(slots_C)
        # A sample leaves its slot before another one's features are put there: where the slot is
        # still the sample's after the copy, the copy is its own.
        taken = np.flatnonzero(selector.kept.sequence_S[slots_C] != sequence_C)
        if len(taken):
            rows_CD[taken] = _stored_rows(store, sequence_C[taken], rows_CD.shape[1])
        return rows_CD

    return Capture(held, rows)


def _stored_rows(store: Store, sequence_C: np.ndarray, features: int) -> np.ndarray:
    wanted = select(vectors).where(vectors.c.sequence.in_(sequence_C.tolist()))
    with store.database.reading() as connection:
        found = {row[0]: row[1] for row in connection.execute(wanted)}
    missing = [sequence for sequence in sequence_C.tolist() if sequence not in found]
    if missing:
        raise damaged(store.place, f"the features of record {missing[0]} are missing")
    stored = b"".join(found[sequence] for sequence in sequence_C.tolist())
    return np.frombuffer(stored, "<f4").reshape(len(sequence_C), features)
