"""A whole service behind a real server on loopback, for tests of what talks to it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from http_service import Service, server_of, wait_until


@dataclass
class Gatekeeper:
    """ASGI middleware: turns requests away, or cuts answers off, as many times as it is told.

    Attributes:
        away: whether every request to /v1 is answered by 503.
        refusals: requests that are still to be answered by ``status``.
        cuts: answers that are still to break off after their first piece.
        requests: paths that arrived.
    """

    app: object
    away: bool = False
    refusals: int = 0
    status: int = 503
    cuts: int = 0
    requests: list = field(default_factory=list)

    async def __call__(self, scope, receive, send):
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith("/v1"):
            await self.app(scope, receive, send)
            return
        self.requests.append(path)
        if self.away or self.refusals:
            self.refusals -= bool(self.refusals)
            await self._refuse(send)
            return
        await self.app(scope, receive, self._cutting(send))

    async def _refuse(self, send):
        headers = [(b"retry-after", b"0"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"later"})

    def _cutting(self, send):
        cut = bool(self.cuts)
        self.cuts -= cut

        async def sending(message):
            if cut and message["type"] == "http.response.body":
                await send({**message, "body": message["body"][:-20], "more_body": True})
                raise ConnectionAbortedError
            await send(message)

        return sending


class ThreadedService(Service):
    """Its event loop is that of a thread of its own: playwright has one in the tests' thread."""

    def __init__(self, *given, **settings):
        self.thread = ThreadPoolExecutor(1)
        super().__init__(*given, **settings)

    def run(self, work):
        if threading.current_thread() in self.thread._threads:
            return super().run(work)
        return self.thread.submit(super().run, work).result()

    def close(self):
        with self.thread:
            self.thread.submit(super().close).result()


@contextmanager
def running(folder, **settings):
    """Yields the address, the service and its gatekeeper."""
    service = ThreadedService(folder, **settings)
    try:
        wait_until(lambda: service.get("/readyz").status_code == 200)
        gate = Gatekeeper(service.app)
        with server_of(gate) as url:
            yield url, service, gate
    finally:
        service.close()
