"""Prometheus metrics of the HTTP server, in a registry of the app's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class HttpMetrics:
    """Counts of requests, samples and lines."""

    def __init__(self) -> None:
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
        return generate_latest(self._registry)


def outcome_of(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return str(answer["error"]["code"])
    return str(answer.get("reason", "scored"))
