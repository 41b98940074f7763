"""The ``Backend`` of the HTTP interface on Ray Serve: handles to scorers and writer.

Samples that bring their features are scored in the ingress itself: the score net is small, and a
hop to another process costs more than it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from selfilter_ray.online.decision import Decision
from selfilter_ray.service.gathering import Gathered
from selfilter_ray.service.messages import (
    Arrival,
    BusyError,
    Incoming,
    Kept,
    NotReadyError,
    Preview,
    Readiness,
    Refused,
    Scored,
)
from selfilter_ray.service.scoring import FeatureScorer
from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.telemetry.tracing import traceparent

PING_SECONDS = 2.0
ADMITTED_TOGETHER = 512  # samples sent to the writer at once

T = TypeVar("T")


class RayBackend:
    """Asks the deployments; what Ray raises becomes ``NotReadyError``."""

    def __init__(
        self, config: ServiceConfig, scorers: DeploymentHandle[Any], writer: DeploymentHandle[Any]
    ) -> None:
        self._own = FeatureScorer(config.run_dir)
        self._seconds = config.limits.request_seconds
        self._scorers, self._writer = scorers, writer
        self._admit = Gathered(self._admit_now, ADMITTED_TOGETHER)

    @property
    def features(self) -> tuple[int, int]:
        return self._own.features

    async def score(self, samples: Sequence[Incoming], previews: bool) -> list[Scored | Refused]:
        raw = [number for number, sample in enumerate(samples) if sample.features_D is None]
        given = [number for number, sample in enumerate(samples) if sample.features_D is not None]
        answers: dict[int, Scored | Refused] = {}
        if given:
            scored = self._own.score([samples[number] for number in given])
            answers.update(zip(given, scored, strict=True))
        if raw:
            sent = [samples[number] for number in raw]
            scored = await self._answer(self._scorers.score.remote(sent, previews, traceparent()))
            answers.update(zip(raw, scored, strict=True))
        return [answers[number] for number in range(len(samples))]

    async def admit(self, arrivals: Sequence[Arrival]) -> list[Decision | Refused]:
        return await self._admit(arrivals)

    async def selection(self, after: int, limit: int) -> list[Kept]:
        return await self._answer(self._writer.selection.remote(after, limit))

    async def stats(self) -> dict[str, Any]:
        return await self._answer(self._writer.stats.remote())

    async def recent(self, limit: int) -> dict[str, Any]:
        return await self._answer(self._writer.recent.remote(limit))

    async def preview(self, sequence: int) -> Preview | None:
        return await self._answer(self._writer.preview.remote(sequence))

    async def snapshot(self) -> dict[str, Any]:
        return await self._answer(self._writer.snapshot.remote())

    async def metrics(self) -> bytes:
        return await self._answer(self._writer.metrics.remote())

    async def readiness(self) -> Readiness:
        scorer, writer = await asyncio.gather(
            _part(self._scorers.ping.remote()), _part(self._writer.readiness.remote())
        )
        parts = {"scorer": scorer, "writer": writer}
        return Readiness(all(part["ready"] for part in parts.values()), parts)

    async def _admit_now(self, arrivals: list[Arrival]) -> list[Decision | Refused]:
        # Of several requests that go together, the first one's.
        return await self._answer(self._writer.admit.remote(arrivals, traceparent()))

    async def _answer(self, response: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._seconds):
                return await response
        except NotReadyError:
            raise
        except BackPressureError as error:
            raise BusyError(str(error)) from None
        except (RayError, RayServeException) as error:
            name = type(error).__name__
            raise NotReadyError(f"a part of the service is being replaced ({name})") from None
        except TimeoutError:
            raise NotReadyError(f"no answer within {self._seconds:g} s") from None


async def _part(response: Awaitable[Any]) -> dict[str, Any]:
    """What a part says of itself within ``PING_SECONDS``."""
    try:
        async with asyncio.timeout(PING_SECONDS):
            said = await response
    except TimeoutError:
        return {"ready": False, "detail": "does not answer: starting, or being replaced"}
    except (RayError, RayServeException) as error:
        return {"ready": False, "detail": f"being replaced ({type(error).__name__})"}
    return said if isinstance(said, dict) else {"ready": True, "detail": "ready"}
