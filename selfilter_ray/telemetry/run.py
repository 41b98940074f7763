"""Which run, and which stage of it, this process works for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfilter_ray import __version__
from selfilter_ray.telemetry import logs, tracing
from selfilter_ray.telemetry.declared import RUN_INFO
from selfilter_ray.telemetry.meter import meter
from selfilter_ray.telemetry.textfile import FOLDER, Textfile


@dataclass(frozen=True, slots=True)
class Run:
    """What travels to every process that works for a run.

    Attributes:
        id: of the run's folder, the same for all attempts.
        name: of that folder.
        stage: that is running; empty between stages.
        traceparent: of the span to go below.
    """

    id: str
    name: str
    stage: str = ""
    traceparent: str = ""


_now: Run | None = None


def new_run_id() -> str:
    return secrets.token_hex(6)


def current() -> Run | None:
    return _now


def carried() -> Run | None:
    """The run as another process needs it; None outside of one."""
    return None if _now is None else replace(_now, traceparent=tracing.traceparent())


@contextmanager
def running(id: str, name: str) -> Iterator[None]:
    """The driver's work for a run: its log lines, its metrics, and the span of it all.

    Raises:
        ConfigError: when SELFILTER_LOG_FORMAT or SELFILTER_METRICS_DIR cannot be followed.
    """
    before = _now
    try:
        _begin(Run(id, name), "driver")
        meter.set(RUN_INFO, 1.0, name=name, version=__version__)
        with tracing.span("run", {"selfilter.run": id, "selfilter.name": name}):
            yield
    finally:
        meter.flush()
        tracing.flush()
        _set(before)


def join(run: Run | None, role: str) -> bool:
    """Work for a run in another process than the driver's.

    Args:
        run: as ``carried`` gave it.
        role: names this process's own metrics file.

    Returns:
        False where there is nothing to join, or it is joined already.
    """
    if run is None or run == _now:
        return False
    _begin(run, f"{role}-{os.getpid()}")
    return True


@contextmanager
def in_stage(stage: str) -> Iterator[None]:
    """Log lines inside the block carry the stage."""
    before = _now
    if before is not None:
        _set(replace(before, stage=stage))
    try:
        yield
    finally:
        _set(before)


def log_fields() -> dict[str, Any]:
    """What every log line says beside its message."""
    fields: dict[str, Any] = {"host": logs.host(), "process": os.getpid()}
    if _now is not None:
        fields = {"run": _now.id, "stage": _now.stage or None} | fields
    return fields


def _begin(run: Run, role: str) -> None:
    _set(run)
    meter.begin(run.id)
    logs.write_lines(log_fields)
    folder = os.environ.get(FOLDER)
    if folder:
        meter.add_sink(Textfile(Path(folder) / f"selfilter-{run.id}-{role}.prom"))


def _set(run: Run | None) -> None:
    global _now
    _now = run
