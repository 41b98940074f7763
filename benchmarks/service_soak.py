"""The service at half its load for a long time: does memory grow, do answers get slower?

First the most requests a second of one sample each are measured for 20 s, then half of that is sent
for ``--minutes``; every id is new, features come again after 4,096. Each minute: resident memory of
every process of the service, cores that each part takes, median and 99th percentile of the latency,
requests that were told to come again (429), and the size of the state on disk. ``rest`` is Ray's
own daemons and the command that started the service; ``client`` is this program.

    python -m benchmarks.service_soak RUN [--minutes 60] [--store service_soak]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.online_load import bodies_of, load
from benchmarks.service_chaos import TARGETS, processes, started, stopped
from benchmarks.store import store_result
from selfilter_ray.service.scoring import FeatureScorer

MEASURED_SECONDS = 20.0


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as state:
        service = started(arguments.run, Path(state), arguments.port)
        try:
            measured = asyncio.run(_soak(arguments, Path(state), service.pid))
        finally:
            stopped(service)
    store_result("service_soak", measured, arguments.store)


async def _soak(arguments: argparse.Namespace, state: Path, service: int) -> dict[str, Any]:
    import aiohttp

    url = f"http://127.0.0.1:{arguments.port}/v1/select"
    bodies = bodies_of(*FeatureScorer(arguments.run).features)
    async with aiohttp.ClientSession() as session:
        most = await load(session, url, bodies, MEASURED_SECONDS)
        half = most["per_second"] / 2
        minutes = []
        for _ in range(arguments.minutes):
            before = _cpu_seconds(service)
            minute = await _minute(session, url, bodies, half)
            minutes.append(
                minute | _memory(service) | _cores(before, service) | {"state_mib": _mib(state)}
            )
            print(minutes[-1], flush=True)
    return {
        "most_per_second": most["per_second"],
        "sent_per_second": half,
        "minutes": arguments.minutes,
        "slopes": {
            name: _slope([minute[name] for minute in minutes])
            for name in minutes[0]
            if name != "sent"
        },
        "by_minute": minutes,
    }


async def _minute(session: Any, url: str, bodies: Iterator[bytes], rate: float) -> dict[str, float]:
    """Send at a steady rate, whether answers are there or not."""
    latencies: list[float] = []
    later = 0
    headers = {"Content-Type": "application/json"}

    async def ask(body: bytes) -> None:
        nonlocal later
        began = time.perf_counter()
        async with session.post(url, data=body, headers=headers) as answer:
            await answer.read()
            assert answer.status in (200, 429), answer.status
        if answer.status == 429:
            later += 1
        else:
            latencies.append(time.perf_counter() - began)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in itertools.count():
            due = start + number / rate
            if due >= start + 60:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(ask(next(bodies)))
    return {
        "sent": len(latencies) + later,
        "told_to_come_again": later,
        "p50_ms": float(np.percentile(latencies, 50)) * 1000,
        "p99_ms": float(np.percentile(latencies, 99)) * 1000,
    }


def _memory(service: int) -> dict[str, float]:
    """Resident MiB by part."""
    found = {}
    for name, title in TARGETS.items():
        kib = 0
        for process in processes(title, service):
            status = Path(f"/proc/{process}/status").read_text()
            kib += int(status.partition("VmRSS:")[2].split()[0])
        found[f"{name}_mib"] = kib / 1024
    return found


def _cores(before: dict[str, float], service: int) -> dict[str, float]:
    """Cores that each part has taken over a minute, in the mean."""
    after = _cpu_seconds(service)
    return {f"{name}_cores": (after[name] - before[name]) / 60 for name in after}


def _cpu_seconds(service: int) -> dict[str, float]:
    """Of user and system, of all threads, since the processes began."""
    found = {name: sum(map(_cpu_of, processes(title, service))) for name, title in TARGETS.items()}
    whole = sum(map(_cpu_of, processes("", service)))
    return {**found, "rest": whole - sum(found.values()), "client": _cpu_of(os.getpid())}


def _cpu_of(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _mib(folder: Path) -> float:
    return int(subprocess.check_output(["du", "-sk", folder]).split()[0]) / 1024


def _slope(values: list[float]) -> dict[str, float]:
    """First and last, and the change an hour of the straight line through all of them."""
    an_hour = float(np.polyfit(np.arange(len(values)), values, 1)[0]) * 60 if len(values) > 1 else 0
    return {"first": values[0], "last": values[-1], "an_hour": an_hour}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--port", type=int, default=8126)
    parser.add_argument("--store", default="service_soak")
    return parser.parse_args()


if __name__ == "__main__":
    main()
