"""A real PostgreSQL for tests, and a way to lose a connection to it at the worst moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

PORT_FILE = ".s.PGSQL.5432"


@contextlib.contextmanager
def private_server(folder: Path):
    """Its URL; the tests are skipped where it cannot start."""
    pgserver = pytest.importorskip("pgserver")
    try:
        server = pgserver.get_server(folder, cleanup_mode="delete")
    except Exception as error:
        pytest.skip(f"no PostgreSQL could be started here: {error}")
    yield server
    server.cleanup()


class Proxy:
    """Passes a connection on, until it is told to lose it at the next COMMIT of decisions.

    Attributes:
        folder: where clients connect.
        lose: None, ``before`` the server hears of the commit, or ``after`` it has answered.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder, self.lose = folder, None
        self._server = str(server / PORT_FILE)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / PORT_FILE))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        answering = threading.Thread(target=self._answers, args=(server, client), daemon=True)
        answering.start()
        appends = False
        while data := _received(client):
            appends = appends or b"INSERT INTO selfilter_decisions" in data
            if b"COMMIT" in data and appends and self.lose:
                self._lose(data, client, server)
                return
            server.sendall(data)
        server.close()

    def _lose(self, data: bytes, client: socket.socket, server: socket.socket) -> None:
        if self.lose == "after":
            self.lose = "answer"
            server.sendall(data)
            return  # the one that passes answers on closes both
        self.lose = None
        for end in (client, server):
            end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        while data := _received(server):
            if self.lose == "answer":
                self.lose = None
                break
            client.sendall(data)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(65_536)
    except OSError:
        return b""
