"""A web server on the loopback interface that answers with whatever bytes a test wants."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class WebServer:
    """What it was asked: the requests as they came, and how many connections there were."""

    port: int = 0
    connections: int = 0
    requests: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [request.split(" ")[1] for request in self.requests]


Answer = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def web_server(
    answer: Answer, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[WebServer]:
    """A server that lets ``answer`` write the answer to each path."""
    server = WebServer()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            server.requests.append(request)
            await answer(request.split(" ")[1], writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client had enough
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, host, port, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


def page(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer; ``content_type=...`` is the header Content-Type."""
    given = {"content_length": str(len(body)), "content_type": "image/png"} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1") + body
