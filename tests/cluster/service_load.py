"""Clients of the service that never rest, as a program that a machine runs.

It is told what to do by lines on its input, and answers each by a line of JSON:

    begin   nothing
    pauses  for each URL the longest time without an answer since `begin`, in seconds, up to now
    stop    how many decisions were acknowledged, by URL, after the last answer has come
    check   hold all of them against the log, see benchmarks/service_chaos; the service must be down

    python service_load.py CONFIG NUMBER URL...

CONFIG is a ServiceConfig as JSON, NUMBER that of the first client: another number, other samples.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from benchmarks.service_chaos import Load, checked, send
from selfilter_ray.service.config import parse_service_config
from selfilter_ray.service.scoring import FeatureScorer

PATIENCE_SECONDS = 400
LOOK_SECONDS = 0.01


class Pauses:
    """Watches how long each load goes without an answer."""

    def __init__(self, loads: list[Load]) -> None:
        self._loads = loads
        self.begin()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> None:
        self._began = time.monotonic()
        self.longest = [0.0 for _ in self._loads]

    def _watch(self) -> None:
        while True:
            now, longest = time.monotonic(), self.longest
            for number, load in enumerate(self._loads):
                longest[number] = max(longest[number], now - max(load.last, self._began))
            time.sleep(LOOK_SECONDS)


def main() -> None:
    config = parse_service_config(json.loads(sys.argv[1]))
    net = FeatureScorer(config.run_dir)
    key = os.environ["SELFILTER_KEY"]
    loads = [Load(config, url, net.features, key, PATIENCE_SECONDS) for url in sys.argv[3:]]
    clients = [
        threading.Thread(target=send, args=(load, number), daemon=True)
        for number, load in enumerate(loads, int(sys.argv[2]))
    ]
    for client in clients:
        client.start()
    pauses = Pauses(loads)
    for line in sys.stdin:
        if line == "begin\n":
            pauses.begin()
        if line == "stop\n":
            _stop(loads, clients)
        if line == "check\n":
            _say([checked(load, net) for load in loads])
        elif line == "stop\n":
            _say([len(load.acknowledged) for load in loads])
        else:
            _say([round(seconds, 2) for seconds in pauses.longest])


def _stop(loads: list[Load], clients: list[threading.Thread]) -> None:
    for load in loads:
        load.stop.set()
    for client in clients:
        client.join()
    for load in loads:
        assert not load.errors, load.errors


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
