"""Metrics as a file for node_exporter's textfile collector: for machines without Ray's exporter."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfilter_ray.errors import ConfigError
from selfilter_ray.telemetry.declared import Declared

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge

FOLDER = "SELFILTER_METRICS_DIR"
EVERY_SECONDS = 5.0


class Textfile:
    """Writes the file, whole or not at all, every five seconds at most and at ``flush``.

    A process that measures nothing leaves none.

    Raises:
        ConfigError: when the folder cannot be written, or prometheus-client is not there.
    """

    def __init__(self, file: Path) -> None:
        if importlib.util.find_spec("prometheus_client") is None:
            raise ConfigError(
                f"{FOLDER} needs the package prometheus-client: pip install "
                "'selfilter-ray[cluster]', or unset the variable."
            )
        from prometheus_client import CollectorRegistry

        self._file, self._registry = file, CollectorRegistry()
        self._known: dict[str, Any] = {}
        self._written = time.monotonic()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=file.parent):
                pass
        except OSError as error:
            raise ConfigError(
                f"{FOLDER}: {file.parent} cannot be written ({error.strerror}): name another "
                "folder, or unset the variable."
            ) from None

    def set(self, metric: Declared, value: float, labels: dict[str, str]) -> None:
        self._of(metric).labels(**labels).set(value)  # type: ignore[union-attr]
        self._write_if_due()

    def add(self, metric: Declared, amount: float, labels: dict[str, str]) -> None:
        self._of(metric).labels(**labels).inc(amount)
        self._write_if_due()

    def flush(self) -> None:
        from prometheus_client import write_to_textfile

        if self._known:
            write_to_textfile(str(self._file), self._registry)
        self._written = time.monotonic()

    def _of(self, metric: Declared) -> Counter | Gauge:
        from prometheus_client import Counter, Gauge

        if metric.name not in self._known:
            kind = Counter if metric.kind == "counter" else Gauge
            self._known[metric.name] = kind(
                metric.name, metric.help, metric.all_labels, registry=self._registry
            )
        return self._known[metric.name]

    def _write_if_due(self) -> None:
        if time.monotonic() - self._written >= EVERY_SECONDS:
            self.flush()
