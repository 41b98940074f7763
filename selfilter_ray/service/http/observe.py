"""Around every request: its id, the security headers, metrics and one line of log."""

from __future__ import annotations

import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from selfilter_ray.service.http.auth import KEY_NAME
from selfilter_ray.service.http.logs import describe
from selfilter_ray.service.http.metrics import HttpMetrics
from selfilter_ray.service.http.problems import CLIENT_LEFT, unexpected
from selfilter_ray.service.http.requests import name_request
from selfilter_ray.telemetry import tracing

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
# What a route may add to the line of log, under this key of the scope.
COUNTS = "selfilter.counts"
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
QUIET = {"/healthz", "/readyz", "/metrics"}

log = logging.getLogger(__name__)


class Observer:
    """ASGI middleware. An error that no handler knows is answered here, and ends here."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, echo_request_id: bool) -> None:
        self._app, self._metrics, self._echo = app, metrics, echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = name_request(scope)
        own = [*HEADERS, (b"x-request-id", request_id.encode())] if self._echo else HEADERS
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with(message.get("headers", []), own)
            await send(message)

        started = time.perf_counter()
        self._metrics.in_flight.inc()
        try:
            with tracing.span("request", {}, _traceparent(scope), "server") as span:
                await self._app(scope, receive, send_with_headers)
                if span is not None:
                    named = {"http.request.method": scope["method"], "http.route": route_of(scope)}
                    span.set_attributes({**named, "http.response.status_code": status})
        except Exception as error:
            log.error(
                "unexpected error",
                extra={"fields": {"request_id": request_id, "error": describe(error)}},
            )
            if status:
                # The answer has begun: only a cut connection tells the client.
                raise ConnectionAbortedError(f"request {request_id} failed") from None
            await unexpected().response(request_id)(scope, receive, send_with_headers)
        finally:
            self._metrics.in_flight.dec()
            self._note(scope, status or CLIENT_LEFT, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = route_of(scope)
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        level = logging.DEBUG if route in QUIET and status < 400 else logging.INFO
        if log.isEnabledFor(level):
            fields: dict[str, Any] = {
                "request_id": scope["selfilter.request_id"],
                "route": route,
                "method": method,
                "status": status,
                "seconds": round(seconds, 6),
                "key": scope.get(KEY_NAME),
            }
            log.log(level, "request", extra={"fields": fields | scope.get(COUNTS, {})})


def route_of(scope: Scope) -> str:
    """The route's pattern; never the address, which may hold anything."""
    return str(getattr(scope.get("route"), "path", None) or "none")


def _traceparent(scope: Scope) -> str:
    """Of the caller; OpenTelemetry takes none that is not well-formed."""
    given = [value for name, value in scope["headers"] if name == b"traceparent"]
    return given[0].decode("latin-1") if len(given) == 1 else ""


def _with(headers: Any, own: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = {name for name, _ in given}
    return given + [(name, value) for name, value in own if name not in names]
