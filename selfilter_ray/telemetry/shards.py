"""A pass over shards as an operator sees it: in the driver, and in the actors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from selfilter_ray.telemetry import tracing
from selfilter_ray.telemetry.declared import PASS_SLOTS, SHARD_ROWS, SHARD_SECONDS, SHARDS_LEFT
from selfilter_ray.telemetry.meter import meter
from selfilter_ray.telemetry.run import current

log = logging.getLogger(__name__)


class ShardWatch:
    """The driver's view of one pass.

    Args:
        section: of the config, as ``featurize`` or ``measure``.
        shards: still to be made.
        slots: shards that may be made at the same time.
    """

    def __init__(self, section: str, shards: int, slots: int) -> None:
        self._section, self._left = section, shards
        meter.set(SHARDS_LEFT, shards, **self._labels)
        meter.set(PASS_SLOTS, slots, **self._labels)
        meter.add(SHARD_ROWS, 0, **self._labels)
        meter.add(SHARD_SECONDS, 0, **self._labels)

    def made(self, rows: int, seconds: float) -> None:
        """Take in one finished shard."""
        self._left -= 1
        meter.set(SHARDS_LEFT, self._left, **self._labels)
        meter.add(SHARD_ROWS, rows, **self._labels)
        meter.add(SHARD_SECONDS, seconds, **self._labels)

    @property
    def _labels(self) -> dict[str, str]:
        return {"pass": self._section}


@contextmanager
def making_shard(section: str, number: int, rows: int) -> Iterator[None]:
    """In an actor: a span and a log line for one shard, sent at once, since actors get killed."""
    run = current()
    parent = "" if run is None else run.traceparent
    what: dict[str, str | int] = {"selfilter.pass": section, "selfilter.shard": number}
    try:
        with tracing.span("shard", what | {"selfilter.rows": rows}, parent):
            yield
        log.info("shard finished", extra={"fields": {"shard": number, "rows": rows}})
    finally:
        tracing.flush()
