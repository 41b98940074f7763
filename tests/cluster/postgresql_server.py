"""A PostgreSQL that listens on the network, with a password, for the state of the service."""

from __future__ import annotations

import secrets
from importlib.resources import files
from pathlib import Path

import pytest
from machine import Machine
from waiting import wait_until

PORT = 5432
USER = "nobody"  # the server refuses to run as root
START_SECONDS = 60


class PostgresqlServer:
    """Runs on a machine until that ends.

    Attributes:
        url: for ``state``, with the password.
    """

    def __init__(self, machine: Machine, host: str, log: Path) -> None:
        pytest.importorskip("pgserver")
        programs = Path(str(files("pgserver"))) / "pginstall" / "bin"
        password = secrets.token_hex(16)
        secret = machine.disk / "tmp" / "postgresql-password"
        secret.write_text(password)
        as_user = ["setpriv", f"--reuid={USER}", "--regid=nogroup", "--clear-groups"]
        machine.run(["install", "--directory", f"--owner={USER}", "/tmp/postgresql"])
        machine.run(["chown", USER, "/tmp/postgresql-password"])
        options = ["--pgdata=/tmp/postgresql", "--username=selfilter", "--encoding=utf8"]
        options += ["--auth=scram-sha-256", "--pwfile=/tmp/postgresql-password"]
        machine.run([*as_user, str(programs / "initdb"), *options])
        access = machine.disk / "tmp" / "postgresql" / "pg_hba.conf"
        access.write_text("host all selfilter samenet scram-sha-256\n")
        options = ["-D", "/tmp/postgresql", "-h", host, "-p", str(PORT), "-k", "/tmp/postgresql"]
        machine.popen([*as_user, str(programs / "postgres"), *options], log)
        self.url = f"postgresql://selfilter:{password}@{host}:{PORT}/postgres"
        wait_until(lambda: "ready to accept" in log.read_text(), "PostgreSQL", START_SECONDS)
