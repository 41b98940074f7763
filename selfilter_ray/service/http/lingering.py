"""Answering a request whose body is not read to its end.

A connection that is closed with unread bytes is reset, and the client may lose the answer. So after
the answer a bounded part of the body is taken, for a bounded time, before the connection closes.
"""

from __future__ import annotations

import asyncio

from fastapi import Response
from starlette.types import Receive, Scope, Send

BYTES = 16 * 2**20
SECONDS = 2.0


class Lingering:
    """A response that ends when the client has stopped sending, or has sent enough."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = self._response.raw_headers
        status = self._response.status_code
        await send({"type": "http.response.start", "status": status, "headers": head})
        body = bytes(self._response.body)
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await _discard(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    left = BYTES
    try:
        async with asyncio.timeout(SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return
