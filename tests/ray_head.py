"""A real Ray head on loopback with the token on: ports, temp folder and token of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

RAY_SETTINGS = ("RAY_", "SELFILTER_")
PATIENCE_SECONDS = 120
STOP_SECONDS = 30


@dataclass(frozen=True)
class Head:
    """Attributes: the dashboard's URL, the address for drivers, the token, its temp folder."""

    url: str
    address: str
    token: str
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        """Of a process of a user who has the token and no other setting of Ray."""
        plain = {k: v for k, v in os.environ.items() if not k.startswith(RAY_SETTINGS)}
        return plain | {"HOME": str(self.folder), "RAY_AUTH_TOKEN": self.token} | more

    def dashboard_answers(self) -> bool:
        try:
            header = {"Authorization": f"Bearer {self.token}"}
            answer = requests.get(f"{self.url}/api/jobs/", headers=header, timeout=5)
        except requests.RequestException:
            return False
        return answer.status_code == 200


@contextmanager
def ray_head(cpus: int = 2):
    """Runs inside the block. Only its own processes are ended."""
    gcs, dashboard, agent, grpc, client = free_ports(5)
    folder = Path(tempfile.mkdtemp(prefix="sf-ray-"))  # Ray's sockets need a short path
    head = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", secrets.token_hex(16), folder)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--node-ip-address", "127.0.0.1", "--port", str(gcs), "--num-cpus", str(cpus)),
        *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)),
        *("--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(grpc)),
        *("--ray-client-server-port", str(client), "--temp-dir", str(folder / "ray")),
        *(
            "--object-store-memory",
            str(100 * 2**20),
            "--disable-usage-stats",
            "--include-log-monitor",
            "false",
        ),
    ]
    settings = {
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with open(folder / "head.log", "wb") as log:
        process = subprocess.Popen(
            command,
            env=head.environment(**settings),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(head, process)
        yield head
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nothing listens on."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]


def _wait(head: Head, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not head.dashboard_answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((head.folder / "head.log").read_text(errors="replace"))
        time.sleep(0.2)


def _end(process: subprocess.Popen) -> None:
    """Ray ends its parts when asked; what is left of the session is killed."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
