"""The service on the cluster: deployed by Ray's command, asked where its parts run, loaded."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml
from machine import Machine
from programs import BIN, REPOSITORY
from ray_cluster import RayCluster
from waiting import wait_until

PORT = 8000
READY_SECONDS = 600
STEADY_SECONDS = 5.0
# Asks without importing Ray, which takes seconds.
ASK = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1])
for line in sys.stdin:
    request.add_header("Authorization", "Bearer " + line.strip())
try:
    with urllib.request.urlopen(request, timeout=5) as answer:
        print(answer.read().decode())
except OSError as error:
    sys.exit(str(error))
"""


def new_key() -> tuple[str, str]:
    """A key of the service, and the line that the service is told."""
    key = secrets.token_urlsafe(24)
    return key, f"load data {hashlib.sha256(key.encode()).hexdigest()}"


class Service:
    """The application on a cluster whose nodes have the variable SELFILTER_KEYS.

    Args:
        asking: machine that is no part of the cluster; clients run there.
        settings: of the service, a ``ServiceConfig``.
    """

    def __init__(
        self, cluster: RayCluster, asking: Machine, key: str, settings: dict[str, Any]
    ) -> None:
        self.cluster, self._asking, self._key = cluster, asking, key
        self.settings = settings
        tree = yaml.safe_load((REPOSITORY / "configs" / "serve.yaml").read_text())
        tree["http_options"] = {"host": "0.0.0.0", "port": PORT}
        tree["applications"][0]["args"] = settings
        file = cluster.head.disk / "tmp" / "serve.yaml"
        file.write_text(yaml.safe_dump(tree))
        cluster.head.run(
            [str(BIN / "serve"), "deploy", f"--address={cluster.dashboard}", "/tmp/serve.yaml"],
            cluster.environment,
        )
        wait_until(self.is_ready, "the service", READY_SECONDS, every=1)

    def url(self, machine: Machine) -> str:
        return f"http://{self.cluster.network.address(machine)}:{PORT}"

    def is_ready(self, at: Machine | None = None) -> bool:
        """Whether the proxy of a machine, the head's by default, says so."""
        return self._asked(f"{self.url(at or self.cluster.head)}/readyz") is not None

    def places(self) -> dict[str, list[str]]:
        """Names of the machines that run each deployment's replicas; {} if unknown."""
        names = {self.cluster.network.address(one): one.name for one in self._machines()}
        return {
            name: sorted(names[one["node_ip"]] for one in replicas)
            for name, replicas in self._deployments().items()
        }

    def machine_of(self, deployment: str) -> Machine:
        """That of the deployment's first replica."""
        places = wait_until(lambda: self.places().get(deployment), deployment, READY_SECONDS)
        return next(one for one in self._machines() if one.name == places[0])

    def is_whole(self, without: Machine | None = None) -> bool:
        """Whether every deployment has its replicas, none of them on a machine that is gone."""
        places = self.places()
        counts = {"scorer": 1, "writer": 1, "ingress": self.settings["ingress"]}
        gone = without.name if without else ""
        return all(
            len(places.get(name, [])) >= count and gone not in places[name]
            for name, count in counts.items()
        )

    def replicas(self, deployment: str) -> set[str]:
        """Their names, which a replacement does not share."""
        return {one["replica_id"] for one in self._deployments().get(deployment, [])}

    def shut_down(self) -> None:
        """End it and wait until it is gone."""
        self.cluster.head.run(
            [str(BIN / "serve"), "shutdown", "--yes", f"--address={self.cluster.dashboard}"],
            self.cluster.environment,
        )
        wait_until(lambda: not self._deployments(), "the end of the service", READY_SECONDS)

    def load(self, *at: Machine, log: Path, number: int = 0) -> ServiceLoad:
        """Clients that ask the proxies of some machines, one each.

        Serve runs a proxy on the head and on machines that carry replicas, nowhere else.

        Args:
            number: of the first client; clients of one number send the same samples.
        """
        variables = self.cluster.environment | {"SELFILTER_KEY": self._key}
        asked = [json.dumps(self.settings), str(number), *(self.url(machine) for machine in at)]
        return ServiceLoad(self._asking, variables, asked, log)

    def _deployments(self) -> dict[str, list[dict[str, Any]]]:
        """The replicas of each that run, as Serve describes them; {} when it does not answer."""
        said = self._asked(f"{self.cluster.dashboard}/api/serve/applications/", self.cluster.token)
        if said is None:
            return {}
        application = json.loads(said)["applications"].get("selfilter", {"deployments": {}})
        return {
            name: [one for one in deployment["replicas"] if one["state"] == "RUNNING"]
            for name, deployment in application["deployments"].items()
        }

    def _machines(self) -> list[Machine]:
        return [self.cluster.head, *self.cluster.network.machines.values()]

    def _asked(self, url: str, token: str = "") -> str | None:
        """What is there; None when nothing answers, or with an error."""
        process = self._asking.popen(
            ["python3", "-Ic", ASK, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        said, _ = process.communicate(token, timeout=30)
        return said if process.returncode == 0 else None


class ServiceLoad:
    """A running ``service_load.py``."""

    def __init__(
        self, machine: Machine, variables: dict[str, str], asked: list[str], log: Path
    ) -> None:
        program = str(Path(__file__).with_name("service_load.py"))
        with log.open("w") as errors:
            self._process = machine.popen(
                [str(BIN / "python"), program, *asked],
                env=variables | {"PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._log = log

    def begin(self) -> None:
        """From here on pauses count."""
        self._told("begin")

    def settle(self, seconds: float) -> None:
        """Wait until every URL answers steadily: clients that were refused for long wait longer."""

        def steady() -> bool:
            self.begin()
            time.sleep(STEADY_SECONDS)
            return max(self.pauses()) < STEADY_SECONDS / 2

        wait_until(steady, "steady answers", seconds)

    def pauses(self) -> list[float]:
        """The longest time without an answer since ``begin``, in seconds, by URL."""
        return self._told("pauses")

    def stop(self) -> list[int]:
        """Send no more; how many decisions were acknowledged, by URL."""
        return self._told("stop")

    def check(self) -> list[dict[str, Any]]:
        """Hold the answers against the log, when the service is down: counts by URL.

        Raises:
            AssertionError: when an acknowledged decision is lost, doubled or another one.
        """
        counts = self._told("check")
        self._process.stdin.close()
        self._process.wait(60)
        return counts

    def _told(self, line: str) -> Any:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        assert said, self._log.read_text()[-4000:]
        return json.loads(said)
