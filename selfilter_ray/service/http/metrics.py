"""Prometheus metrics of the HTTP server, in a registry of the app's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class HttpMetrics:
    """Counts of requests, samples and lines.

    Args:
        process: becomes a label of every metric; for one of several processes behind an address,
            whose counts must not be taken for each other's.
    """

    def __init__(self, process: str | None = None) -> None:
        self._process = process
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "selfilter_http_requests",
            "Requests answered.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "selfilter_http_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ["route"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "selfilter_http_requests_in_flight",
            "Requests that are being answered.",
            registry=self._registry,
        )
        self.samples = Counter(
            "selfilter_samples",
            "Samples answered: scored, the reason of the decision, or the error's code.",
            ["route", "outcome"],
            registry=self._registry,
        )
        self.lines = Counter(
            "selfilter_stream_lines",
            "Lines of streams read, blank ones left out.",
            registry=self._registry,
        )

    def count(self, route: str, answers: Iterable[dict[str, Any]]) -> None:
        """Count samples by what became of them, from their answers."""
        counts: dict[str, int] = {}
        for answer in answers:
            outcome = outcome_of(answer)
            counts[outcome] = counts.get(outcome, 0) + 1
        for outcome, number in counts.items():
            self.samples.labels(route, outcome).inc(number)

    def text(self) -> bytes:
        """Ends with a line feed."""
        if self._process is None:
            return generate_latest(self._registry)
        labelled = CollectorRegistry(auto_describe=False)
        labelled.register(_Labelled(self._registry, self._process))
        return generate_latest(labelled)


class _Labelled(Collector):
    """All of a registry, with the label ``process``."""

    def __init__(self, registry: CollectorRegistry, process: str) -> None:
        self._registry, self._process = registry, process

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "process": self._process})
                for sample in family.samples
            ]
            yield family


def outcome_of(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return str(answer["error"]["code"])
    return str(answer.get("reason", "scored"))
