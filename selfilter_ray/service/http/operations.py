"""What operators and the live page ask."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic_core
from fastapi import Depends, FastAPI, Path, Query, Response

from selfilter_ray.service.http.answers import Alive, Ready, Recent, Snapshot, Stats
from selfilter_ray.service.http.context import Context
from selfilter_ray.service.http.metrics import CONTENT_TYPE
from selfilter_ray.service.http.openapi import KEYED, content_of, problems
from selfilter_ray.service.http.problems import Problem
from selfilter_ray.service.messages import NotReadyError

NEWEST = 100


def add_state(app: FastAPI, context: Context) -> None:
    """/v1/stats, /v1/recent, /v1/thumbnails and /v1/admin/snapshot."""
    data = [Depends(context.keyring.needs("data"))]
    admin = [Depends(context.keyring.needs("admin"))]
    shared: dict[str, Any] = {"openapi_extra": KEYED, "dependencies": data}

    @app.get("/v1/stats", response_model=Stats, responses=problems(401, 429, 503), **shared)
    async def stats() -> Response:
        """Counts, threshold, and series of the last minutes."""
        async with context.reads.entered():
            return _json(await context.backend.stats())

    @app.get("/v1/recent", response_model=Recent, responses=problems(401, 422, 429, 503), **shared)
    async def recent(limit: Annotated[int, Query(ge=1, le=NEWEST)] = 20) -> Response:
        """The newest admitted and the newest rejected samples, newest first."""
        async with context.reads.entered():
            return _json(await context.backend.recent(limit))

    @app.get(
        "/v1/thumbnails/{sequence}",
        response_class=Response,
        responses=content_of("image/jpeg") | problems(401, 404, 422, 429, 503),
        **shared,
    )
    async def thumbnail(sequence: Annotated[int, Path(ge=0, le=2**63 - 1)]) -> Response:
        """A small picture of a kept or recently rejected sample."""
        async with context.reads.entered():
            preview = await context.backend.preview(sequence)
        if preview is None or not preview.thumbnail:
            detail = f"there is no picture of the sample with the sequence {sequence}"
            raise Problem(404, "no_thumbnail", detail, "/v1/recent says which samples have one.")
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(preview.thumbnail, media_type="image/jpeg", headers=headers)

    @app.post(
        "/v1/admin/snapshot",
        response_model=Snapshot,
        responses=problems(401, 403, 429, 503),
        openapi_extra=KEYED,
        dependencies=admin,
    )
    async def snapshot() -> Response:
        """Write the state down now, so that a restart replays little."""
        async with context.reads.entered(timed=False):
            return _json(await context.backend.snapshot())


def add_health(app: FastAPI, context: Context) -> None:
    """/healthz, /readyz and /metrics."""

    @app.get("/healthz", response_model=Alive)
    async def healthz() -> Response:
        """The process answers. It says nothing of the parts behind it."""
        return _json({"alive": True})

    unready: dict[int | str, dict[str, Any]] = {503: {"model": Ready, "description": "Not ready"}}

    @app.get("/readyz", response_model=Ready, responses=unready)
    async def readyz() -> Response:
        """Whether requests can be answered, and what each part says."""
        ready = await context.backend.readiness()
        said = {"ready": ready.ready, "parts": ready.parts}
        headers = {} if ready.ready else {"Retry-After": "1"}
        return _json(said, 200 if ready.ready else 503, headers)

    scope = [Depends(context.keyring.needs("data"))] if context.config.keys.metrics else []

    @app.get(
        "/metrics",
        response_class=Response,
        responses=content_of("text/plain"),
        dependencies=scope,
    )
    async def metrics() -> Response:
        """Prometheus text. While the writer is not ready, its part is left out."""
        try:
            async with context.reads.entered():
                behind = await context.backend.metrics()
        except NotReadyError:
            behind = b""
        return Response(context.metrics.text() + behind, media_type=CONTENT_TYPE)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    text = pydantic_core.to_json(value, inf_nan_mode="null")
    return Response(
        text, status, {"Cache-Control": "no-store"} | (headers or {}), "application/json"
    )
