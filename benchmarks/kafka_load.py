"""Samples a second from a Kafka topic into a running service, and beside it through its stream.

A real broker in memory, the service on Ray Serve and the ingestion as a process of its own, all on
this machine. Both ways send as many different samples with features.

    python -m benchmarks.kafka_load RUN [--samples 10000] [--rounds 3] [--store kafka_load]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from kafka_broker import Broker, running_broker  # type: ignore[import-not-found]

from benchmarks.online_load import bodies_of
from benchmarks.service_chaos import started, stopped
from benchmarks.store import store_result
from selfilter_ray.service.client import Client
from selfilter_ray.service.scoring import FeatureScorer

TOGETHER = 1000  # lines of a request of the client
LOOK_SECONDS = 0.05


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as folder, running_broker(Path(folder)) as broker:
        service = started(arguments.run, Path(folder), arguments.port)
        try:
            measured = _measure(arguments, Path(folder), broker)
        finally:
            stopped(service)
    store_result("kafka_load", measured, arguments.store)


def _measure(arguments: argparse.Namespace, folder: Path, broker: Broker) -> dict[str, Any]:
    url = f"http://127.0.0.1:{arguments.port}"
    bodies = bodies_of(*FeatureScorer(arguments.run).features)
    kafka, stream = [], []
    for _ in range(arguments.rounds):
        stream.append(_streamed(url, _lines(bodies, arguments.samples)))
        kafka.append(_consumed(url, _lines(bodies, arguments.samples), folder, broker))
    return {
        "samples": arguments.samples,
        "kafka_per_second": statistics.median(kafka),
        "stream_per_second": statistics.median(stream),
        "kafka_of_stream": statistics.median(kafka) / statistics.median(stream),
        "rounds": {"kafka": kafka, "stream": stream},
    }


def _lines(bodies: Iterator[bytes], count: int) -> list[bytes]:
    return [
        json.dumps(json.loads(body)["samples"][0]).encode()
        for body in itertools.islice(bodies, count)
    ]


def _streamed(url: str, lines: list[bytes]) -> float:
    began = time.perf_counter()
    with Client(url) as client:
        for start in range(0, len(lines), TOGETHER):
            answers = client.select_lines(lines[start : start + TOGETHER])
            assert not any("error" in answer for answer in answers)
    return len(lines) / (time.perf_counter() - began)


def _consumed(url: str, lines: list[bytes], folder: Path, broker: Broker) -> float:
    """From the first decision on the output topic to the last: the group's start is no load."""
    settings = broker.topics() | {"batch": TOGETHER, "linger_seconds": 0.05}
    broker.send(settings["topics"][0], [(str(n), line, None) for n, line in enumerate(lines)])
    with _ingest(url, settings, folder):
        while not (first := broker.size(settings["output"])):
            time.sleep(LOOK_SECONDS)
        began = time.perf_counter()
        while (done := broker.size(settings["output"])) < len(lines):
            time.sleep(LOOK_SECONDS)
        return (done - first) / (time.perf_counter() - began)


@contextmanager
def _ingest(url: str, settings: dict[str, Any], folder: Path) -> Iterator[None]:
    config = folder / "kafka.yaml"
    config.write_text(yaml.safe_dump({**settings, "topics": list(settings["topics"])}))
    command = [sys.executable, "-m", "selfilter_ray.cli", "ingest", "--kafka", str(config)]
    with open(folder / "ingest.log", "w") as log:
        process = subprocess.Popen([*command, "--to", url], stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=8127)
    parser.add_argument("--store", default="kafka_load")
    return parser.parse_args()


if __name__ == "__main__":
    main()
