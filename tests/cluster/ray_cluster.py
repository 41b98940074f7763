"""A Ray cluster over machines, with token authentication everywhere."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import HOME, Machine
from network import Network
from programs import BIN
from waiting import wait_until

GCS_PORT = 6379
DASHBOARD_PORT = 8265
START_SECONDS = 600
STARTS = 5  # Ray gives a node half a minute, which a busy machine may exceed
START_LOG = "ray-start.log"
OBJECT_STORE_BYTES = 200_000_000
COMMON = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DS_BUILD_OPS": "0",
    "OMP_NUM_THREADS": "1",
    # How long a node waits for a head that is away, before it ends. Ray's own is a minute.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
}


class RayCluster:
    """A head and the nodes that joined it.

    Args:
        variables: of every node's environment; what runs on the cluster inherits them.
        head_settings: options and variables of the head, such as where its state is kept.
    """

    def __init__(
        self,
        network: Network,
        head: Machine,
        cpus: float,
        variables: dict[str, str] | None = None,
        head_settings: tuple[list[str], dict[str, str]] = ([], {}),
    ) -> None:
        self.network, self.head = network, head
        self.token = secrets.token_hex(32)
        self._variables = COMMON | (variables or {})
        self._head_settings, self._head_cpus = head_settings, cpus
        self.start_head()

    @property
    def address(self) -> str:
        return f"{self.network.address(self.head)}:{GCS_PORT}"

    @property
    def dashboard(self) -> str:
        return f"http://{self.network.address(self.head)}:{DASHBOARD_PORT}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a program that uses the cluster; the token is a file of its machine."""
        return self._variables | {"RAY_API_SERVER_ADDRESS": self.dashboard}

    def start_head(self) -> None:
        """Also again, on the same machine: with its state elsewhere it goes on."""
        options, variables = self._head_settings
        host = self.network.address(self.head)
        options = [*options, "--head", f"--port={GCS_PORT}", f"--dashboard-host={host}"]
        options.append("--include-dashboard=true")
        self._start([self.head], self._head_cpus, options, variables)

    def join(self, *machines: Machine, cpus: float) -> None:
        """Start a node on each of them, at the same time."""
        self._start(machines, cpus, [f"--address={self.address}"], {})

    def give_token(self, machine: Machine, token: str | None = None) -> None:
        """Write it where Ray looks for it."""
        folder = machine.disk / HOME.lstrip("/") / ".ray"
        folder.mkdir(exist_ok=True)
        file = folder / "auth_token"
        file.write_text(token or self.token)
        file.chmod(0o600)

    def ray(self, machine: Machine, *arguments: str, **options: Any) -> Any:
        """Run Ray's own command there."""
        env = self.environment | options.pop("env", {})
        return machine.run([str(BIN / "ray"), *arguments], env, **options)

    def nodes(self, alive: bool = True) -> list[dict[str, Any]]:
        """What the head says of its nodes (``ray list nodes``)."""
        said = self.ray(self.head, "list", "nodes", "--format=json", check=False)
        if said.returncode:
            return []
        nodes = json.loads(said.stdout[said.stdout.index("[") :])
        return [node for node in nodes if (node["state"] == "ALIVE") == alive]

    def wait_for_nodes(self, count: int, seconds: float = START_SECONDS) -> None:
        wait_until(lambda: len(self.nodes()) == count, f"{count} nodes of Ray", seconds, every=1)

    def _start(
        self,
        machines: Sequence[Machine],
        cpus: float,
        options: list[str],
        variables: dict[str, str],
    ) -> None:
        """All at the same time; again what fails, as whoever watches over a node would do."""
        for _ in range(STARTS):
            starting = [self._starting(one, cpus, options, variables) for one in machines]
            codes = [process.wait(START_SECONDS) for process in starting]
            machines = [one for one, code in zip(machines, codes, strict=True) if code]
            if not machines:
                return
            for machine in machines:
                self.ray(machine, "stop", "--force", check=False)
        raise AssertionError((machines[0].disk / START_LOG).read_text()[-4000:])

    def _starting(
        self, machine: Machine, cpus: float, options: list[str], variables: dict[str, str]
    ) -> subprocess.Popen[str]:
        self.give_token(machine)
        command = [str(BIN / "ray"), "start", *options, f"--num-cpus={cpus:g}"]
        command += [f"--node-ip-address={self.network.address(machine)}", "--temp-dir=/tmp/ray"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"]
        return machine.popen(command, machine.disk / START_LOG, self._variables | variables)


def logs(machine: Machine) -> Path:
    """Folder of the newest session's logs, seen from outside."""
    sessions = machine.disk / "tmp" / "ray"
    newest = max(sessions.glob("session_2*"), key=lambda folder: folder.name)
    return newest / "logs"
