"""The route of the stream, and that of the selection: NDJSON both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse

from selfilter_ray.service.http.answers import (
    DecidedSample,
    FailedSample,
    KeptSample,
    of_failed,
    of_kept,
)
from selfilter_ray.service.http.body import NDJSON, require_type
from selfilter_ray.service.http.context import Context
from selfilter_ray.service.http.ndjson import MEDIA_TYPE, ndjson
from selfilter_ray.service.http.openapi import KEYED, body_of, content_of, problems
from selfilter_ray.service.http.problems import of_not_ready
from selfilter_ray.service.http.stream import ROUTE, SelectStream
from selfilter_ray.service.incoming.schemas import SampleIn
from selfilter_ray.service.messages import Kept, NotReadyError

PAGE = 1000  # kept samples that are in memory at the same time
LAST = 2**63 - 1


def add_streaming(app: FastAPI, context: Context) -> None:
    data = [Depends(context.keyring.needs("data"))]
    lines = content_of(MEDIA_TYPE, DecidedSample, FailedSample)

    @app.post(
        ROUTE,
        response_class=StreamingResponse,
        responses=lines | problems(401, 415, 429, 503),
        openapi_extra=body_of(SampleIn, MEDIA_TYPE),
        dependencies=data,
    )
    async def select_stream(request: Request) -> Response:
        """One sample a line in, one answer a line out, in order; read while you send."""
        require_type(request, NDJSON)
        ready = await context.backend.readiness()
        if not ready.ready:
            unready = [name for name, part in ready.parts.items() if not part["ready"]]
            raise NotReadyError(f"not ready: {', '.join(unready)}")
        return SelectStream(context)

    @app.get(
        "/v1/selection",
        response_class=StreamingResponse,
        responses=content_of(MEDIA_TYPE, KeptSample) | problems(401, 422, 429, 503),
        openapi_extra=KEYED,
        dependencies=data,
    )
    async def selection(
        after: Annotated[int, Query(ge=-1, le=LAST)] = -1,
        limit: Annotated[int | None, Query(ge=1, le=LAST)] = None,
    ) -> Response:
        """The samples kept now with their decisions, by sequence; all of them without a limit."""
        left = LAST if limit is None else limit
        async with context.reads.entered():
            first = await context.backend.selection(after, min(PAGE, left))
        return StreamingResponse(_kept(context, first, left), media_type=MEDIA_TYPE)


async def _kept(context: Context, page: Sequence[Kept], left: int) -> AsyncIterator[bytes]:
    while page:
        yield ndjson(of_kept(kept) for kept in page)
        left -= len(page)
        if len(page) < PAGE or not left:
            return
        try:
            async with context.reads.entered():
                page = await context.backend.selection(page[-1].decision.sequence, min(PAGE, left))
        except NotReadyError as error:
            yield ndjson([of_failed(None, of_not_ready(error)) | {"end": True}])
            return
