"""A real S3 server on the loopback interface, in a process of its own (moto's), for tests."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pyarrow.fs

PATIENCE_SECONDS = 60


class S3Server:
    """A server that can be stopped and started again on its port. What it held is then gone.

    Attributes:
        url: of the server.
        env: what a process needs to use it.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.port = host, port or _free_port(host)
        self.url = f"http://{host}:{self.port}"
        self.env = {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", self.host, "-p", str(self.port)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port)):
                return
            assert self._process.poll() is None, "the S3 server ended"
            time.sleep(0.05)
        raise TimeoutError("the S3 server does not answer")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def make_bucket(self, name: str) -> None:
        files = pyarrow.fs.S3FileSystem(
            endpoint_override=self.url,
            access_key=self.env["AWS_ACCESS_KEY_ID"],
            secret_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region="us-east-1",
            allow_bucket_creation=True,
        )
        files.create_dir(name)


@contextlib.contextmanager
def s3_server(*buckets: str) -> Iterator[S3Server]:
    """A server with these buckets, and the environment to use it."""
    server = S3Server()
    server.start()
    before = {name: os.environ.get(name) for name in server.env}
    os.environ.update(server.env)
    try:
        for bucket in buckets:
            server.make_bucket(bucket)
        yield server
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _free_port(host: str) -> int:
    with socket.socket() as found:
        found.bind((host, 0))
        return int(found.getsockname()[1])


class Gate:
    """Stands before a server, and can be shut: connections are then refused, and open ones end."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.port = _free_port(server.host)
        self.url = f"http://{server.host}:{self.port}"
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []

    def __enter__(self) -> Gate:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.shut()

    def open(self) -> None:
        self._listener = socket.create_server((self.server.host, self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        if self._listener is not None:
            ends = [self._listener, *self._open]
            self._listener, self._open = None, []
            for end in ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((self.server.host, self.server.port))
                self._open += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_carry, args=(source, target), daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
