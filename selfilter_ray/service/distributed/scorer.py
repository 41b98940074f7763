"""Scorer replicas: embedder and score net, fed with batches gathered from many requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ray import serve

from selfilter_ray.service.http.logs import log_json
from selfilter_ray.service.messages import Incoming, Refused, Scored
from selfilter_ray.service.scoring import IncomingScorer
from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.telemetry import tracing


class ScorerReplica:
    """Scores samples; one call of the models for what several requests sent.

    Args:
        tree: a ``ServiceConfig`` as JSON values.
    """

    def __init__(self, tree: dict[str, Any]) -> None:
        log_json()
        config = ServiceConfig.model_validate(tree)
        self._scorer = IncomingScorer(config.run_dir, config.limits, config.previews)
        batched: Any = self._batched
        batched.set_max_batch_size(config.scorer.batch)
        batched.set_batch_wait_timeout_s(config.scorer.wait_seconds)

    async def score(
        self, samples: Sequence[Incoming], previews: bool, parent: str = ""
    ) -> list[Scored | Refused]:
        """Difficulty of each, in their order; ``parent`` is the span that asks."""
        with tracing.span("score", {"selfilter.samples": len(samples)}, parent, "server"):
            return list(await asyncio.gather(*(self._batched((one, previews)) for one in samples)))

    async def ping(self) -> bool:
        return True

    @serve.batch
    async def _batched(self, asked: list[tuple[Incoming, bool]]) -> list[Scored | Refused]:
        samples = [sample for sample, _ in asked]
        previews = any(wanted for _, wanted in asked)
        return await asyncio.to_thread(self._scorer.score, samples, previews)
