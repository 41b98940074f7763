"""The service under load while its processes are killed with SIGKILL at random moments.

Clients send samples with features and repeat ids they have sent before; a request that fails is
sent again. At the end, from the log on disk: every decision that was acknowledged is there as it
was answered, no id twice, no gap; and a selector that decides again on all samples in the order of
the log decides the same.

    python -m benchmarks.service_chaos RUN [--kills 200] [--store service_chaos]

RUN is the folder of a run whose Stage 1 is finished. Killed in turn: the writer, the scorer, one of
two ingresses, the controller and the proxy.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.store import store_result
from selfilter_ray.online.base import base_of
from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.service.client import Answer, Client, encode_features
from selfilter_ray.service.config import parse_service_config
from selfilter_ray.service.scoring import FeatureScorer
from selfilter_ray.service.settings import ServiceConfig

TARGETS = {
    "writer": "ray::ServeReplica:selfilter:writer",
    "scorer": "ray::ServeReplica:selfilter:scorer",
    "ingress": "ray::ServeReplica:selfilter:ingress",
    "controller": "ray::ServeController",
    "proxy": "ray::ProxyActor",
}
CLIENTS = 2
START_SECONDS = 240
BACK_SECONDS = 120
REPEATED = 0.1  # share of samples that were sent before


@dataclass
class Load:
    """What the clients share.

    Attributes:
        acknowledged: by id; every answer that came.
        differing: answers to a repeated id that were not the first one's.
    """

    config: ServiceConfig
    url: str
    dimensions: tuple[int, int]
    key: str | None = None
    patience: float = BACK_SECONDS
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    acknowledged: dict[str, Answer] = field(default_factory=dict)
    differing: list[tuple[Answer, Answer]] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    last: float = 0.0

    def took(self, answer: Answer) -> None:
        with self.lock:
            first = self.acknowledged.setdefault(answer.id, answer)
            if first != answer:
                self.differing.append((first, answer))
            self.last = time.monotonic()


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as state:
        measured = run(
            arguments.run, Path(state), arguments.kills, arguments.port, arguments.targets
        )
    store_result("service_chaos", measured, arguments.store)


def run(
    run_dir: str, state: Path, kills: int, port: int, targets: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Load, kill, check; what was counted and how long the service was away.

    Raises:
        AssertionError: when an acknowledged decision is lost, doubled or another one.
    """
    config = parse_service_config({"run_dir": run_dir, "state": str(state), "port": port})
    net = FeatureScorer(config.run_dir)
    load = Load(config, f"http://127.0.0.1:{port}", net.features)
    service = started(run_dir, state, port, "--set", "ingress=2")
    clients = [threading.Thread(target=send, args=(load, n)) for n in range(CLIENTS)]
    try:
        for client in clients:
            client.start()
        away = _kill_often(load, service.pid, kills, targets, random.Random(seed))
        load.stop.set()
        for client in clients:
            client.join()
    finally:
        load.stop.set()
        stopped(service)
    assert not load.errors, load.errors
    return checked(load, net) | {"kills": kills} | _summary(away)


def send(load: Load, number: int) -> None:
    """Send until told to stop; what fails for a while is sent again by the client itself."""
    rng = random.Random(number)
    sent = 0
    try:
        with Client(load.url, load.key, patience=load.patience) as client:
            while not load.stop.is_set():
                samples = []
                for _ in range(rng.randint(1, 12)):
                    again = sent and rng.random() < REPEATED
                    place = rng.randrange(sent) if again else sent
                    sent += not again
                    samples.append(_sample(load, f"{number}-{place}"))
                for answer in client.select(samples):
                    assert isinstance(answer, Answer), answer
                    load.took(answer)
    except BaseException as error:
        load.errors.append(error)


def _sample(load: Load, id: str) -> dict[str, Any]:
    return {"id": id, "features": encode_features(*_features(load.dimensions, id))}


def _features(dimensions: tuple[int, int], id: str) -> tuple[np.ndarray, np.ndarray]:
    """The same for the same id: 300 places and some noise, so that there are neighbours."""
    client, _, place = id.partition("-")
    noise = np.random.default_rng([int(client), int(place)])
    centre = np.random.default_rng(int(place) % 300)
    halves = [
        (centre.normal(size=size) + 0.3 * noise.normal(size=size)).astype(np.float32)
        for size in dimensions
    ]
    return halves[0], halves[1]


def _kill_often(
    load: Load, service: int, kills: int, targets: Sequence[str], rng: random.Random
) -> dict[str, list[float]]:
    """Seconds from each kill to the next answer, by what was killed."""
    away: dict[str, list[float]] = {name: [] for name in targets}
    for number in range(kills):
        name = targets[number % len(targets)]
        time.sleep(rng.uniform(0.0, 1.5))
        killed = kill(TARGETS[name], service)
        if killed is None:
            continue
        deadline = killed + BACK_SECONDS
        while load.last <= killed:
            assert not load.errors, load.errors
            assert time.monotonic() < deadline, f"no answer {BACK_SECONDS} s after killing {name}"
            time.sleep(0.02)
        away[name].append(load.last - killed)
    return away


def processes(title: str, service: int) -> list[int]:
    """Those whose command line begins so, among all that the service has started."""
    children: dict[int, list[int]] = {}
    titled = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            line = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        process = int(folder.name)
        children.setdefault(parent, []).append(process)
        if line.decode(errors="replace").startswith(title):
            titled.add(process)
    family = [service]
    for process in family:
        family += children.get(process, [])
    return [process for process in family if process in titled]


def kill(title: str, service: int) -> float | None:
    """Kill one process of that title; when, or None where there is none just now."""
    for process in processes(title, service):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
        return time.monotonic()
    return None


def checked(load: Load, net: FeatureScorer) -> dict[str, Any]:
    """Hold what was answered against the log, and the log against the rule."""
    from selfilter_ray.service.state.log import read_log

    assert not load.differing, load.differing[:3]
    decisions = [entry.record.decision for entry in read_log(load.config)]
    logged = {decision.id: decision for decision in decisions}
    assert len(logged) == len(decisions), "an id is in the log twice"
    for id, answer in load.acknowledged.items():
        decision = logged.get(id)
        assert decision is not None, f"{id} was acknowledged and is lost"
        same = (answer.sequence, answer.admitted, answer.difficulty, answer.adjusted)
        assert same == (
            decision.sequence,
            decision.admitted,
            decision.difficulty,
            decision.adjusted,
        ), (answer, decision)
    base = base_of(load.config.online, np.array([net.base]))
    selector = OnlineSelector(load.config.online, sum(net.features), base)
    rows = [np.concatenate(_features(load.dimensions, one.id)) for one in decisions]
    again = selector.decide(
        [one.id for one in decisions], [one.difficulty for one in decisions], rows
    )
    assert again == decisions, "deciding again gives other decisions"
    return {
        "acknowledged": len(load.acknowledged),
        "in_the_log": len(decisions),
        "admitted": sum(decision.admitted for decision in decisions),
    }


def _summary(away: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "seconds_until_the_next_answer": {
            name: {
                "kills": len(seconds),
                "median": round(float(np.median(seconds)), 2),
                "most": round(max(seconds), 2),
            }
            for name, seconds in away.items()
            if seconds
        }
    }


def started(run_dir: str, state: Path, port: int, *more: str) -> subprocess.Popen[bytes]:
    """The service as a process of its own that answers."""
    command = [sys.executable, "-m", "selfilter_ray.cli", "serve", run_dir, "--port", str(port)]
    with open(state / "service.log", "w") as log:
        service = subprocess.Popen(
            [*command, "--set", f"state={state}", *more],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    with Client(f"http://127.0.0.1:{port}") as client:
        while not client.ready().ready:
            assert service.poll() is None, (state / "service.log").read_text()
            assert time.monotonic() < deadline, "the service does not get ready"
            time.sleep(0.5)
    return service


def stopped(service: subprocess.Popen[bytes]) -> None:
    """End it in peace, or else by force."""
    service.send_signal(signal.SIGTERM)
    try:
        service.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(service.pid, signal.SIGKILL)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--port", type=int, default=8124)
    parser.add_argument("--store", default="service_chaos")
    return parser.parse_args()


if __name__ == "__main__":
    main()
