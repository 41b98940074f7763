"""The one replica that decides and remembers."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any

from selfilter_ray.online.decision import Decision
from selfilter_ray.service.http.logs import log_json
from selfilter_ray.service.messages import Arrival, Kept, Preview, Refused
from selfilter_ray.service.metrics import prometheus_text
from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.service.state.writer import SelectionWriter
from selfilter_ray.service.writer_loop import WriterLoop
from selfilter_ray.telemetry import tracing

HOLDER = "the service on Ray Serve"


class WriterReplica:
    """A ``WriterLoop`` that other processes can ask.

    Args:
        tree: a ``ServiceConfig`` as JSON values.
        features: how many a sample has.
        base: subtracted from difficulties, see ``online.base``.
    """

    def __init__(self, tree: dict[str, Any], features: int, base: float) -> None:
        log_json()
        config = ServiceConfig.model_validate(tree)
        self._loop = WriterLoop(
            functools.partial(SelectionWriter.open, config, features, base, HOLDER)
        )

    async def admit(
        self, arrivals: Sequence[Arrival], parent: str = ""
    ) -> list[Decision | Refused]:
        with tracing.span("admit", {"selfilter.samples": len(arrivals)}, parent, "server"):
            return await self._loop.admit(arrivals)

    async def selection(self, after: int, limit: int) -> list[Kept]:
        return await self._loop.ask(lambda writer: writer.selection(after, limit))

    async def stats(self) -> dict[str, Any]:
        return await self._loop.ask(lambda writer: writer.stats())

    async def recent(self, limit: int) -> dict[str, Any]:
        return await self._loop.ask(lambda writer: writer.recent(limit))

    async def preview(self, sequence: int) -> Preview | None:
        return await self._loop.ask(lambda writer: writer.preview(sequence))

    async def snapshot(self) -> dict[str, Any]:
        # It goes on deciding while the file is written.
        started = await self._loop.ask(lambda writer: writer.start_snapshot())
        return await asyncio.wrap_future(started)

    async def metrics(self) -> bytes:
        return prometheus_text(await self.stats())

    async def readiness(self) -> dict[str, Any]:
        return {"ready": self._loop.ready, "detail": self._loop.detail}

    async def check_health(self) -> None:
        """Serve replaces a replica that raises here. Waiting for the state is no illness."""
        if not self._loop.alive:
            raise RuntimeError("the writer's thread has ended")

    def __del__(self) -> None:
        """Serve calls this when it takes the replica down in peace."""
        self._loop.close()
