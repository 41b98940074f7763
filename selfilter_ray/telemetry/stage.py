"""A stage of the pipeline as an operator sees it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from selfilter_ray.telemetry import tracing
from selfilter_ray.telemetry.declared import (
    LAST_EVENT,
    QUARANTINED,
    ROWS,
    STAGE_DONE,
    STAGE_FAILURES,
    STAGE_FINISHED,
    STAGE_PLANNED,
    STAGE_RUNNING,
    STAGE_SECONDS,
)
from selfilter_ray.telemetry.logs import describe
from selfilter_ray.telemetry.meter import meter
from selfilter_ray.telemetry.run import in_stage

log = logging.getLogger(__name__)
STATES = ("in", "out", "left_out_by_limit")


@contextmanager
def watched_stage(
    name: str, unit: str, total: int | None, advance: Callable[[int], None]
) -> Iterator[Callable[[int], None]]:
    """Log, measure and trace the block as a stage.

    Args:
        total: units to do, where known.
        advance: also told the progress.

    Yields:
        What is to be told the progress in units.
    """
    began = time.monotonic()
    done = 0
    _start(name, unit, total)

    def told(units: int) -> None:
        nonlocal done
        done += units
        meter.add(STAGE_DONE, max(0, units), stage=name, unit=unit)
        _get_on(name, began)
        advance(units)

    with in_stage(name), tracing.span("stage", {"selfilter.stage": name}) as span:
        log.info("stage started", extra={"fields": {"unit": unit, "planned": total}})
        try:
            yield told
        except BaseException as error:
            _fail(name, began, error)
            raise
        finally:
            if span is not None:
                span.set_attributes({f"selfilter.{unit}": done})
        _end(name, unit, began, done)


def pool_counts(counts: Mapping[str, Any]) -> None:
    """Show the rows in, out and quarantined; from the manifest."""
    for state in STATES:
        if state in counts:
            meter.set(ROWS, counts[state], state=state)
    for reason, rows in counts.get("quarantined", {}).items():
        meter.set(QUARANTINED, rows, reason=reason)
    meter.flush()


def _start(name: str, unit: str, total: int | None) -> None:
    meter.set(STAGE_RUNNING, 1, stage=name)
    meter.add(STAGE_FAILURES, 0, stage=name)
    meter.add(STAGE_DONE, 0, stage=name, unit=unit)
    if total is not None:
        meter.set(STAGE_PLANNED, total, stage=name, unit=unit)
    _get_on(name, time.monotonic())
    meter.flush()


def _get_on(name: str, began: float) -> None:
    meter.set(STAGE_SECONDS, time.monotonic() - began, stage=name)
    meter.set(LAST_EVENT, time.time())


def _end(name: str, unit: str, began: float, done: int) -> None:
    seconds = time.monotonic() - began
    _get_on(name, began)
    meter.set(STAGE_RUNNING, 0, stage=name)
    meter.set(STAGE_FINISHED, time.time(), stage=name)
    fields = {"unit": unit, "done": done, "seconds": round(seconds, 3)}
    log.info("stage finished", extra={"fields": fields})
    meter.flush()


def _fail(name: str, began: float, error: BaseException) -> None:
    _get_on(name, began)
    meter.set(STAGE_RUNNING, 0, stage=name)
    meter.add(STAGE_FAILURES, stage=name)
    fields = {"seconds": round(time.monotonic() - began, 3), "error": describe(error)}
    log.error("stage failed", extra={"fields": fields})
    meter.flush()
