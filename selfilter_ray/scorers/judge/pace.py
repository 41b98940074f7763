"""How fast the judge may be asked: requests and tokens a minute, and pauses that it asks for."""

from __future__ import annotations

import asyncio

from aiolimiter import AsyncLimiter

LONGEST_PAUSE = 600.0


class Pace:
    """A gate that every attempt passes, retries included. First come, first served.

    Requests are spread evenly, with no burst at the start; tokens are let through a second's worth
    at a time. So no window of a minute holds more than the limit and one second's worth above it.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._requests = (
            AsyncLimiter(1.0, 60.0 / requests_per_minute) if requests_per_minute else None
        )
        self._tokens = AsyncLimiter(tokens_per_minute / 60.0, 1.0) if tokens_per_minute else None
        self._turn = asyncio.Lock()
        self._paused_until = 0.0

    async def wait(self, tokens: int) -> None:
        """Return when a request of so many tokens may be sent."""
        async with self._turn:
            if self._requests:
                await self._requests.acquire()
            if self._tokens:
                left = float(tokens)
                while left > 0.0:
                    piece = min(left, self._tokens.max_rate)
                    await self._tokens.acquire(piece)
                    left -= piece
            while (delay := self._paused_until - asyncio.get_running_loop().time()) > 0.0:
                await asyncio.sleep(delay)

    def pause(self, seconds: float) -> None:
        """Send nothing for so long, at most ten minutes: the server asked for it."""
        until = asyncio.get_running_loop().time() + min(seconds, LONGEST_PAUSE)
        self._paused_until = max(self._paused_until, until)
