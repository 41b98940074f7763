"""Errors as application/problem+json (RFC 9457): what is wrong, and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import pydantic_core
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from selfilter_ray.service.http.lingering import Lingering
from selfilter_ray.service.http.requests import request_id_of
from selfilter_ray.service.messages import BusyError, NotReadyError, Refused

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:selfilter:problem:"
# A client that left gets no answer; this is what the log and the metrics say of it.
CLIENT_LEFT = 499

REMEDIES = {
    404: "See /openapi.json for the routes.",
    405: "Use one of the methods that the header Allow names.",
}


class Problem(Exception):
    """An error with its answer.

    Attributes:
        status: of HTTP.
        code: what is wrong, in one stable word.
        detail, remedy: what is wrong, and what to do.
        pointer: JSON pointer of the field in the body, when there is one.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        remedy: str,
        pointer: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.remedy = status, code, detail, remedy
        self.pointer, self.headers = pointer, headers or {}

    def error(self) -> dict[str, Any]:
        """As the error of one sample among others."""
        said = {"code": self.code, "status": self.status, "detail": self.detail}
        said["remedy"] = self.remedy
        return said | ({"pointer": self.pointer} if self.pointer is not None else {})

    def response(self, request_id: str) -> Response:
        body = {"type": TYPE + self.code, "title": _title(self.status)} | self.error()
        body["instance"] = f"urn:selfilter:request:{request_id}"
        return Response(
            pydantic_core.to_json(body), self.status, self.headers, media_type=MEDIA_TYPE
        )


def of_refused(refused: Refused) -> Problem:
    """Of a sample that was alone in its request."""
    return Problem(refused.status, refused.code, refused.detail, refused.remedy)


def of_not_ready(error: NotReadyError) -> Problem:
    """429 when too much is waiting, else 503; both say when to come again."""
    headers = {"Retry-After": str(max(1, math.ceil(error.retry_seconds)))}
    if isinstance(error, BusyError):
        remedy = "Nothing was decided. Send the same request again after Retry-After seconds."
        return Problem(429, "busy", error.detail, remedy, headers=headers)
    remedy = (
        "Send the same request again after Retry-After seconds: an id that was decided on gets "
        "the same answer. /readyz says what is not ready."
    )
    return Problem(503, "not_ready", error.detail, remedy, headers=headers)


def unexpected() -> Problem:
    """A bug. What the error said may hold a payload, so it goes to no answer."""
    return Problem(500, "internal", "the service failed", "Report it with the request id.")


def of_validation(errors: Sequence[Any]) -> Problem:
    """Of the first of pydantic's errors about a query or a path."""
    first = errors[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    detail = f"{first['loc'][0]} parameter {name}: {first['msg']}"
    return Problem(
        422, "parameter", detail, "Correct the parameter; /openapi.json names its range."
    )


def add_handlers(app: FastAPI) -> None:
    """Every error that leaves a route is answered as a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(NotReadyError, _not_ready)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _left)


async def _problem(request: Request, error: Any) -> Any:
    response = error.response(request_id_of(request.scope))
    return Lingering(response) if error.headers.get("Connection") == "close" else response


async def _not_ready(request: Request, error: Any) -> Response:
    return of_not_ready(error).response(request_id_of(request.scope))


async def _validation(request: Request, error: Any) -> Response:
    return of_validation(error.errors()).response(request_id_of(request.scope))


async def _http(request: Request, error: Any) -> Response:
    status = error.status_code
    code = _title(status).lower().replace(" ", "_")
    remedy = REMEDIES.get(status, "Correct the request.")
    problem = Problem(status, code, _said(request, error), remedy, headers=error.headers)
    return problem.response(request_id_of(request.scope))


def _said(request: Request, error: HTTPException) -> str:
    if error.status_code == 405:
        return f"{request.method} is not a method of this address"
    return "there is nothing at this address" if error.status_code == 404 else error.detail


async def _left(request: Request, _: Any) -> Response:
    problem = Problem(CLIENT_LEFT, "client_left", "the client left", "Wait for the answer.")
    return problem.response(request_id_of(request.scope))


def _title(status: int) -> str:
    return HTTPStatus(status).phrase if status != CLIENT_LEFT else "Client Left"
