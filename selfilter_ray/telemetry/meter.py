"""Keeps the value of every metric of this process, and tells those who show them."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from selfilter_ray.telemetry.declared import ALL, RUN, Declared

log = logging.getLogger(__name__)
Labels = tuple[str, ...]


class Sink(Protocol):
    """Where metrics go. What it raises must never end a run, so it is then given up."""

    def set(self, metric: Declared, value: float, labels: dict[str, str]) -> None: ...

    def add(self, metric: Declared, amount: float, labels: dict[str, str]) -> None: ...

    def flush(self) -> None: ...


class Meter:
    """Values by metric and labels. A sink that comes late gets what was measured before it."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, Labels], float] = {}
        self._sinks: list[Sink] = []
        self._run = ""
        self._lock = threading.RLock()

    def begin(self, run: str) -> None:
        """Measure for another run, from nothing."""
        with self._lock:
            self._values.clear()
            self._sinks.clear()
            self._run = run

    def set(self, metric: Declared, value: float, **labels: str) -> None:
        self._take(metric, float(value), labels)

    def add(self, metric: Declared, amount: float = 1.0, **labels: str) -> None:
        """Counters only; 0 makes a counter appear, so that its first increase can be seen."""
        self._take(metric, float(amount), labels)

    def value(self, metric: Declared, **labels: str) -> float | None:
        key = (metric.name, tuple(labels[name] for name in metric.labels))
        return self._values.get(key)

    def add_sink(self, sink: Sink) -> None:
        with self._lock:
            for (name, values), value in self._values.items():
                self._tell(sink, ALL[name], value, values)
            self._sinks.append(sink)

    def remove_sink(self, sink: Sink) -> None:
        with self._lock:
            if sink in self._sinks:
                self._sinks.remove(sink)

    def flush(self) -> None:
        with self._lock:
            for sink in list(self._sinks):
                try:
                    sink.flush()
                except Exception as error:
                    self._give_up(sink, error)

    def _take(self, metric: Declared, value: float, labels: dict[str, str]) -> None:
        values = tuple(str(labels[name]) for name in metric.labels)
        if len(labels) != len(values):
            raise KeyError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
        key = (metric.name, values)
        with self._lock:
            before = self._values.get(key, 0.0) if metric.kind == "counter" else 0.0
            self._values[key] = before + value
            for sink in list(self._sinks):
                self._tell(sink, metric, value, values)

    def _tell(self, sink: Sink, metric: Declared, value: float, values: Labels) -> None:
        labels = dict(zip(metric.all_labels, (self._run, *values), strict=True))
        try:
            (sink.add if metric.kind == "counter" else sink.set)(metric, value, labels)
        except Exception as error:
            self._give_up(sink, error)

    def _give_up(self, sink: Sink, error: Exception) -> None:
        name = type(sink).__name__
        log.warning("%s takes no more metrics: %s: %s", name, type(error).__name__, error)
        self.remove_sink(sink)


meter = Meter()
__all__ = ["RUN", "Meter", "Sink", "meter"]
