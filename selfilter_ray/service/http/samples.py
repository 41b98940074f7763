"""POST /v1/score and /v1/select: some samples, some answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pydantic_core
from fastapi import Depends, FastAPI, Request, Response

from selfilter_ray.online.decision import Decision
from selfilter_ray.service.http import judging
from selfilter_ray.service.http.answers import ScoreAnswer, SelectAnswer, of_answer
from selfilter_ray.service.http.body import read_body
from selfilter_ray.service.http.context import Context
from selfilter_ray.service.http.observe import COUNTS
from selfilter_ray.service.http.openapi import body_of, problems
from selfilter_ray.service.http.parse import parse_aside
from selfilter_ray.service.http.problems import Problem, of_refused
from selfilter_ray.service.incoming.schemas import SampleIn, SamplesRequest
from selfilter_ray.service.messages import Refused, Scored

ERRORS = problems(400, 401, 403, 408, 409, 413, 415, 422, 429, 503)


def add_samples(app: FastAPI, context: Context) -> None:
    data = [Depends(context.keyring.needs("data"))]

    @app.post(
        "/v1/score",
        response_model=ScoreAnswer,
        responses=ERRORS,
        openapi_extra=body_of(SamplesRequest, "application/json"),
        dependencies=data,
    )
    async def score(request: Request) -> Response:
        """Difficulty, weight and percentile of each sample; nothing is decided or kept."""
        async with context.gate.entered():
            samples = await _samples(request, context)
            answers = await judging.score(context, samples, previews=False)
        return _answer(request, context, answers)

    @app.post(
        "/v1/select",
        response_model=SelectAnswer,
        responses=ERRORS,
        openapi_extra=body_of(SamplesRequest, "application/json"),
        dependencies=data,
    )
    async def select(request: Request) -> Response:
        """Decide on each sample, after those before it; an id that comes again gets its answer."""
        async with context.gate.entered():
            samples = await _samples(request, context)
            scored = await judging.score(context, samples, previews=True)
            answers = await judging.admit(context, scored)
        return _answer(request, context, answers)


async def _samples(request: Request, context: Context) -> list[SampleIn]:
    limits = context.limits
    try:
        async with asyncio.timeout(limits.request_seconds * 0.9):
            body = await read_body(request, limits.body_bytes)
    except TimeoutError:
        detail = "the body did not arrive in time"
        raise Problem(408, "slow_body", detail, "Send it again.", headers=CLOSE) from None
    samples = (await parse_aside(SamplesRequest, body)).samples
    if len(samples) > limits.batch:
        detail = f"{len(samples)} samples are more than {limits.batch}"
        remedy = "Send fewer a request, or a stream to /v1/select/stream."
        raise Problem(422, "batch", detail, remedy, "/samples")
    return list(samples)


CLOSE = {"Connection": "close"}


def _answer(
    request: Request, context: Context, answers: Sequence[Scored | Decision | Refused]
) -> Response:
    """200, unless the only sample was refused."""
    results: list[dict[str, Any]] = [of_answer(answer) for answer in answers]
    context.metrics.count(request.scope["route"].path, results)
    request.scope[COUNTS] = {"samples": len(results)}
    if len(answers) == 1 and isinstance(answers[0], Refused):
        raise of_refused(answers[0])
    text = pydantic_core.to_json({"results": results}, inf_nan_mode="null")
    return Response(text, media_type="application/json")
