"""Metrics through Ray: every node's agent exports them, as ``ray_selfilter_...``."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from ray.util.metrics import Counter, Gauge

from selfilter_ray.telemetry.declared import ALL, Declared
from selfilter_ray.telemetry.meter import meter
from selfilter_ray.telemetry.run import Run, join


class RaySink:
    """Needs a process that is connected to Ray."""

    def set(self, metric: Declared, value: float, labels: dict[str, str]) -> None:
        _gauge(metric.name).set(value, tags=labels)

    def add(self, metric: Declared, amount: float, labels: dict[str, str]) -> None:
        if amount > 0:  # Ray takes no zero: a counter appears with its first increase
            _counter(metric.name).inc(amount, tags=labels)

    def flush(self) -> None:
        """Ray sends by itself, every few seconds."""


@contextmanager
def exported_by_ray() -> Iterator[None]:
    """The metrics of this process go to Ray, inside the block."""
    sink = RaySink()
    meter.add_sink(sink)
    try:
        yield
    finally:
        meter.remove_sink(sink)


def join_on_ray(run: Run | None, role: str) -> None:
    """``join``, in a Ray worker or actor: its metrics go through Ray, too."""
    if join(run, role):
        meter.add_sink(RaySink())


@functools.cache
def _gauge(name: str) -> Gauge:
    return Gauge(name, ALL[name].help, ALL[name].all_labels)


@functools.cache
def _counter(name: str) -> Counter:
    return Counter(name, ALL[name].help, ALL[name].all_labels)
