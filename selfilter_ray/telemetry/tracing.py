"""OpenTelemetry spans. Off, and nothing imported, unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

Needs the extra ``otel``. All of OpenTelemetry's own variables apply (headers, timeout, sampler,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES). A collector that is away costs a log line, and no
run.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger(__name__)
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE = "selfilter-ray"
FLUSH_MILLISECONDS = 3000
Kind = Literal["internal", "server", "client", "consumer"]


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, str | int | float] | None = None,
    parent: str = "",
    kind: Kind = "internal",
) -> Iterator[Span | None]:
    """A span around the block; None where tracing is off.

    Args:
        attributes: no payloads.
        parent: a W3C ``traceparent``; without one, the span that is open here.

    An error marks the span with its type; its message may hold a payload and is left out.
    """
    tracer = _tracer()
    if tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode

    with tracer.start_as_current_span(
        name,
        context=_context(parent),
        kind=SpanKind[kind.upper()],
        attributes=dict(attributes or {}),
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except BaseException as error:
            opened.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def traceparent() -> str:
    """Of the span that is open here, for another process; empty where there is none."""
    if _tracer() is None:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")


def flush() -> None:
    """Send what is finished. For processes that may be killed, and at the end of a run."""
    if _tracer() is None:
        return
    from opentelemetry.trace import get_tracer_provider

    provider: Any = get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush(FLUSH_MILLISECONDS)


def enabled() -> bool:
    return _tracer() is not None


@functools.cache
def _tracer() -> Tracer | None:
    """Made once a process. An application that has a provider of its own keeps it."""
    if not any(os.environ.get(name) for name in ENDPOINTS) or _off():
        return None
    if not _installed():
        log.warning("%s is set: it needs pip install 'selfilter-ray[otel]'; no traces", _set())
        return None
    from opentelemetry import trace

    from selfilter_ray import __version__

    if type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider":
        trace.set_tracer_provider(_provider())
    return trace.get_tracer("selfilter_ray", __version__)


def _provider() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = os.environ.get("OTEL_SERVICE_NAME")
    resource = Resource.create({} if named else {"service.name": SERVICE})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _context(parent: str) -> Any:
    """None takes the span that is open here."""
    if not parent:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent})


def _installed() -> bool:
    try:
        name = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
        return all(importlib.util.find_spec(part) for part in ("opentelemetry.sdk.trace", name))
    except ModuleNotFoundError:
        return False


def _off() -> bool:
    """By OpenTelemetry's own switches."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return disabled or os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"


def _set() -> str:
    return next(name for name in ENDPOINTS if os.environ.get(name))
