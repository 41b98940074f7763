"""How far behind an ingestion is: for Prometheus, and for the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

log = logging.getLogger(__name__)


class IngestMetrics:
    """Counts since the start, and lag by partition.

    Attributes:
        decided, dead: messages answered by a decision, and dead letters.
    """

    def __init__(self, lag_seconds: float) -> None:
        self.decided = self.dead = 0
        self.registry = CollectorRegistry()
        self._every = lag_seconds
        self._looked = -lag_seconds
        self._messages = Counter(
            "selfilter_ingest_messages", "Messages by what became of them.", ["result"],
            registry=self.registry,
        )  # fmt: skip
        self._lag = Gauge(
            "selfilter_ingest_lag_messages", "Messages that are not yet decided.",
            ["topic", "partition"], registry=self.registry,
        )  # fmt: skip

    def count(self, decided: int, dead: int) -> None:
        self.decided += decided
        self.dead += dead
        self._messages.labels("decided").inc(decided)
        self._messages.labels("dead").inc(dead)

    def is_due(self) -> bool:
        """Whether the lag should be looked at again."""
        if time.monotonic() - self._looked < self._every:
            return False
        self._looked = time.monotonic()
        return True

    def show(self, lag: Mapping[tuple[str, int], int]) -> None:
        """Take the lag of the partitions that are ours now."""
        self._lag.clear()
        for (topic, partition), behind in lag.items():
            self._lag.labels(topic, str(partition)).set(behind)
        shown = ", ".join(f"{topic}/{partition} {behind}" for (topic, partition), behind
                          in sorted(lag.items()))  # fmt: skip
        log.info("lag: %s; %d decided, %d dead", shown or "none", self.decided, self.dead)

    @contextmanager
    def served(self, port: int | None) -> Iterator[None]:
        """On the loopback interface, inside the block."""
        if port is None:
            yield
            return
        server, thread = start_http_server(port, "127.0.0.1", self.registry)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
