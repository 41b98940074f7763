"""The HTTP interface as an ASGI application, over any backend."""

from __future__ import annotations

import logging

from fastapi import FastAPI

from selfilter_ray import __version__
from selfilter_ray.service.backend import Backend
from selfilter_ray.service.http import openapi
from selfilter_ray.service.http.context import Context
from selfilter_ray.service.http.observe import Observer
from selfilter_ray.service.http.operations import add_health, add_state
from selfilter_ray.service.http.page import add_page
from selfilter_ray.service.http.problems import add_handlers
from selfilter_ray.service.http.samples import add_samples
from selfilter_ray.service.http.streaming import add_streaming
from selfilter_ray.service.settings import ServiceConfig

log = logging.getLogger(__name__)


def create_app(config: ServiceConfig, backend: Backend, echo_request_id: bool = True) -> FastAPI:
    """The app; the backend's life is the caller's matter.

    Args:
        echo_request_id: answer with ``x-request-id``; False where what stands before does.

    Raises:
        ConfigError: when the keys cannot be read.
    """
    context = Context(config, backend)
    if context.keyring.open:
        log.warning("no keys are configured: everyone who reaches the service may use it")
    # The pages of FastAPI load scripts from elsewhere; /openapi.json stays.
    app = FastAPI(
        title="selfilter_ray",
        version=__version__,
        description="Scores samples, and selects from a stream.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Observer, metrics=context.metrics, echo_request_id=echo_request_id)
    add_handlers(app)
    add_samples(app, context)
    add_streaming(app, context)
    add_state(app, context)
    add_health(app, context)
    add_page(app)
    openapi.describe(app)
    return app
