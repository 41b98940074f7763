"""What happened lately, in memory, for the live page and the metrics."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

import numpy as np

from selfilter_ray.service.state.record import Record

BUCKET_SECONDS = 5
BUCKETS = 120
# Samples that the histograms are of, and decisions that can be shown.
REMEMBERED = 4096
SHOWN = 200
BINS = 24


class Activity:
    """Fed with every record in the order of the log.

    Attributes:
        admitted, rejected: the newest records, oldest first.
        last: the newest record.
    """

    def __init__(self) -> None:
        self.admitted: deque[Record] = deque(maxlen=SHOWN)
        self.rejected: deque[Record] = deque(maxlen=SHOWN)
        self.last: Record | None = None
        self._lately: deque[tuple[float, float, bool]] = deque(maxlen=REMEMBERED)
        # By bucket of the clock: admitted, rejected, last threshold.
        self._buckets: dict[int, list[Any]] = {}

    def add(self, record: Record) -> None:
        decision = record.decision
        (self.admitted if decision.admitted else self.rejected).append(record)
        self.last = record
        similarity = decision.similarities[0] if decision.similarities else math.nan
        self._lately.append((decision.difficulty, similarity, decision.admitted))
        bucket = self._buckets.setdefault(int(record.decided_at // BUCKET_SECONDS), [0, 0, None])
        bucket[0 if decision.admitted else 1] += 1
        bucket[2] = finite(decision.threshold)
        if len(self._buckets) > 2 * BUCKETS:
            self._forget()

    def series(self) -> dict[str, Any]:
        """Counts and thresholds of the last ten minutes; 0 and null where nothing was decided."""
        first = int(time.time() // BUCKET_SECONDS) - BUCKETS + 1
        nothing = [0, 0, None]
        rows = [self._buckets.get(first + number, nothing) for number in range(BUCKETS)]
        return {
            "start": first * BUCKET_SECONDS,
            "seconds": BUCKET_SECONDS,
            "admitted": [row[0] for row in rows],
            "rejected": [row[1] for row in rows],
            "threshold": [row[2] for row in rows],
        }

    def difficulty(self) -> dict[str, Any]:
        """Histogram of the last samples' difficulty."""
        values = [value for value, _, _ in self._lately]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        return self._histogram(0, np.linspace(low, high if high > low else low + 1.0, BINS + 1))

    def similarity(self) -> dict[str, Any]:
        """Histogram of the cosine to the nearest neighbour; what is below 0 counts as 0."""
        return self._histogram(1, np.linspace(0.0, 1.0, BINS + 1))

    def _histogram(self, place: int, edges: np.ndarray) -> dict[str, Any]:
        counts = {}
        for name, admitted in (("admitted", True), ("rejected", False)):
            values = np.array(
                [row[place] for row in self._lately if row[2] is admitted], np.float64
            )
            values = np.clip(values[~np.isnan(values)], edges[0], edges[-1])
            counts[name] = np.histogram(values, edges)[0].tolist()
        return {"edges": edges.tolist(), **counts}

    def _forget(self) -> None:
        """Also of a clock that was ahead and went back."""
        now = int(time.time() // BUCKET_SECONDS)
        kept = range(now - BUCKETS, now + BUCKETS)
        self._buckets = {bucket: row for bucket, row in self._buckets.items() if bucket in kept}


def finite(value: float) -> float | None:
    """For JSON, which has no infinity."""
    return value if math.isfinite(value) else None
