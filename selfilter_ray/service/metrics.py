"""The writer's numbers as Prometheus text."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


def prometheus_text(stats: Mapping[str, Any]) -> bytes:
    """What ``SelectionWriter.stats`` says; ends with a line feed.

    Totals of decisions are those of the log, and go on over restarts; refusals start anew.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(stats))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, stats: Mapping[str, Any]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        yield _decisions(stats)
        yield _counter("evicted", "Kept samples that had to go for better ones.", stats["evicted"])
        yield _refused(stats["refused"])
        yield _gauge("kept", "Samples kept now.", stats["kept"])
        yield _gauge("kept_bytes", "Memory of the kept vectors.", stats["bytes"])
        yield _gauge("log_decisions", "Decisions in the log.", stats["sequence"])
        yield _gauge("epoch", "How often a writer has taken the state over.", stats["epoch"])
        yield _gauge("recovery_seconds", "Of the last start.", stats["recovery_seconds"])
        if stats["log"]["bytes"] is not None:
            yield _gauge("state_bytes", "Of the log on disk.", stats["log"]["bytes"])
        if stats["threshold"] is not None:
            yield _gauge("threshold", "Of the last decision.", stats["threshold"])
        yield from _ages(stats)


def _decisions(stats: Mapping[str, Any]) -> Metric:
    family = CounterMetricFamily(
        "selfilter_decisions", "Decisions in the log by their reason.", labels=["reason"]
    )
    family.add_metric(["admitted"], stats["admitted"])
    for reason, count in stats["rejected"].items():
        family.add_metric([reason], count)
    return family


def _refused(counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(
        "selfilter_refused", "Samples the writer refused since it started.", labels=["code"]
    )
    for code, count in counts.items():
        family.add_metric([code], count)
    return family


def _ages(stats: Mapping[str, Any]) -> Iterator[Metric]:
    """Of the newest snapshot and of the last decision, where there are any."""
    snapshot, decided_at = stats["snapshot"], stats["log"]["last_decided_at"]
    if snapshot is not None:
        behind = stats["sequence"] - snapshot["sequence"]
        yield _gauge("snapshot_age_seconds", "Of the newest one.", snapshot["age_seconds"])
        yield _gauge("snapshot_bytes", "Of the newest one.", snapshot["bytes"])
        yield _gauge("snapshot_decisions_behind", "What a restart would replay.", behind)
    if decided_at is not None:
        age = max(0.0, time.time() - decided_at)
        yield _gauge("log_age_seconds", "Since the last decision.", age)


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"selfilter_{name}", help, value=value)


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"selfilter_{name}", help, value=value)
