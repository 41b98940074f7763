"""What has been read of a stream and not been worked on: bounded, so that TCP holds the sender."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from selfilter_ray.service.http.lines import Line
from selfilter_ray.service.http.problems import Problem


class Ahead:
    """Lines between the one task that reads them and the one that takes them.

    Args:
        lines, size: held before ``put`` waits: lines, and their bytes.
    """

    def __init__(self, lines: int, size: int) -> None:
        self._most, self._most_bytes = lines, size
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._ended = False
        self._changed = asyncio.Condition()
        self.problem: Problem | None = None

    async def put(self, lines: Iterable[Line]) -> None:
        """Add lines; returns when there is room for more."""
        async with self._changed:
            for line in lines:
                self._lines.append(line)
                self._bytes += len(line.text or b"")
            self._changed.notify_all()
            await self._changed.wait_for(self._has_room)

    async def end(self, problem: Problem | None = None) -> None:
        """No more lines; ``problem`` says why, when the stream did not end by itself."""
        async with self._changed:
            self._ended, self.problem = True, problem
            self._changed.notify_all()

    async def take(self, most: int) -> list[Line]:
        """The lines that are there, one at least and ``most`` at most; none at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._lines or self._ended)
            taken = [self._lines.popleft() for _ in range(min(most, len(self._lines)))]
            self._bytes -= sum(len(line.text or b"") for line in taken)
            self._changed.notify_all()
            return taken

    def _has_room(self) -> bool:
        return len(self._lines) < self._most and self._bytes < self._most_bytes
