"""A Redis with a password, for the head's state (GCS)."""

from __future__ import annotations

import secrets
from pathlib import Path

from machine import Machine
from programs import installed
from waiting import wait_until

PORT = 6380
START_SECONDS = 30


class RedisServer:
    """Runs on a machine until that ends; every write is in its log.

    Attributes:
        address: HOST:PORT.
        password: of the default user.
    """

    def __init__(self, machine: Machine, host: str, log: Path) -> None:
        program = installed("redis-server", "redis-server")
        self.address, self.password = f"{host}:{PORT}", secrets.token_hex(16)
        settings = machine.disk / "tmp" / "redis.conf"
        settings.write_text(
            f"bind {host}\nport {PORT}\nrequirepass {self.password}\nappendonly yes\ndir /tmp\n"
        )
        settings.chmod(0o600)  # not in the command line, which everybody reads
        machine.popen([program, "/tmp/redis.conf"], log)
        wait_until(lambda: "Ready to accept" in log.read_text(), "Redis", START_SECONDS)

    def head_settings(self) -> tuple[list[str], dict[str, str]]:
        """Options and variables with which ``ray start --head`` keeps its state here."""
        variables = {"RAY_REDIS_ADDRESS": self.address, "RAY_external_storage_namespace": "test"}
        return [f"--redis-password={self.password}"], variables
