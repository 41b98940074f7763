"""The whole service in one process: scorer and writer behind the HTTP interface.

For tests, and for one machine without Ray. The work is done in threads; the event loop only waits.
"""

from __future__ import annotations

import asyncio
import os
import platform
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from selfilter_ray.online.base import base_of
from selfilter_ray.online.decision import Decision
from selfilter_ray.service.messages import (
    Arrival,
    Incoming,
    Kept,
    Preview,
    Readiness,
    Refused,
    Scored,
)
from selfilter_ray.service.metrics import prometheus_text
from selfilter_ray.service.scoring import FeatureScorer, IncomingScorer
from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.service.state.writer import SelectionWriter
from selfilter_ray.service.writer_loop import WriterLoop

SCORING_THREADS = 2


class LocalBackend:
    """See ``Backend``. Close it when the server has stopped.

    Raises:
        ConfigError: when the run has no finished Stage 1.
        ArtifactError: when its files are damaged.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._net = FeatureScorer(config.run_dir)
        self._embedding: IncomingScorer | None = None
        self._loading = threading.Lock()
        self._threads = ThreadPoolExecutor(SCORING_THREADS, thread_name_prefix="scorer")
        self._writer = WriterLoop(self._open_writer)

    @property
    def features(self) -> tuple[int, int]:
        return self._net.features

    async def score(self, samples: Sequence[Incoming], previews: bool) -> list[Scored | Refused]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._score, samples, previews)

    async def admit(self, arrivals: Sequence[Arrival]) -> list[Decision | Refused]:
        return await self._writer.admit(arrivals)

    async def selection(self, after: int, limit: int) -> list[Kept]:
        return await self._writer.ask(lambda writer: writer.selection(after, limit))

    async def stats(self) -> dict[str, Any]:
        return await self._writer.ask(lambda writer: writer.stats())

    async def recent(self, limit: int) -> dict[str, Any]:
        return await self._writer.ask(lambda writer: writer.recent(limit))

    async def preview(self, sequence: int) -> Preview | None:
        return await self._writer.ask(lambda writer: writer.preview(sequence))

    async def snapshot(self) -> dict[str, Any]:
        # The writer goes on deciding while the file is written.
        started = await self._writer.ask(lambda writer: writer.start_snapshot())
        return await asyncio.wrap_future(started)

    async def metrics(self) -> bytes:
        return prometheus_text(await self.stats())

    async def readiness(self) -> Readiness:
        writer = {"ready": self._writer.ready, "detail": self._writer.detail}
        parts = {"scorer": {"ready": True, "detail": "ready"}, "writer": writer}
        return Readiness(self._writer.ready, parts)

    def close(self) -> None:
        """Answer what waits, close the state and let go of its lease."""
        self._threads.shutdown()
        self._writer.close()

    def _score(self, samples: Sequence[Incoming], previews: bool) -> list[Scored | Refused]:
        if all(sample.features_D is not None for sample in samples):
            return self._net.score(samples, previews)
        return self._embedder().score(samples, previews)

    def _embedder(self) -> IncomingScorer:
        """Loaded when the first conversation arrives: it takes seconds, and memory."""
        with self._loading:
            if self._embedding is None:
                config = self._config
                self._embedding = IncomingScorer(config.run_dir, config.limits, config.previews)
            return self._embedding

    def _open_writer(self) -> SelectionWriter:
        base = base_of(self._config.online, np.array([self._net.base]))
        holder = f"{platform.node()}, process {os.getpid()}"
        return SelectionWriter.open(self._config, sum(self.features), base, holder)
