"""How many requests may wait for an answer at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from selfilter_ray.service.messages import BusyError, NotReadyError
from selfilter_ray.service.settings import ServiceLimits


class Gate:
    """Turns requests away instead of letting them pile up."""

    def __init__(self, limits: ServiceLimits) -> None:
        self.limits = limits
        self.waiting = 0

    @asynccontextmanager
    async def entered(self, timed: bool = True) -> AsyncIterator[None]:
        """A place in the queue for as long as the block runs.

        Args:
            timed: the block has ``request_seconds``; streams have their own clock.

        Raises:
            BusyError: when all places are taken.
            NotReadyError: when the time is over.
        """
        if self.waiting >= self.limits.queue:
            raise BusyError(f"{self.waiting} requests are waiting already")
        self.waiting += 1
        seconds = self.limits.request_seconds
        try:
            async with asyncio.timeout(seconds if timed else None) as clock:
                yield
        except TimeoutError:
            if clock.expired():
                raise NotReadyError(f"no answer within {seconds:g} seconds") from None
            raise
        finally:
            self.waiting -= 1
