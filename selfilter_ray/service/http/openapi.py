"""What /openapi.json says beside what FastAPI finds: bodies that routes read themselves, keys."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from selfilter_ray.service.http.answers import (
    DecidedSample,
    FailedSample,
    KeptSample,
    ProblemAnswer,
)
from selfilter_ray.service.http.problems import MEDIA_TYPE
from selfilter_ray.service.incoming.schemas import SampleIn, SamplesRequest

REFERENCE = "#/components/schemas/{model}"
ADDED: tuple[type[BaseModel], ...] = (
    SamplesRequest,
    SampleIn,
    ProblemAnswer,
    DecidedSample,
    FailedSample,
    KeptSample,
)
KEY = {"type": "http", "scheme": "bearer", "description": "Needed where keys are configured."}


def reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=model.__name__)}


def body_of(model: type[BaseModel], media_type: str) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads its body itself."""
    return {
        "requestBody": {"required": True, "content": {media_type: {"schema": reference(model)}}},
        # The empty one: a service without keys is open.
        "security": [{"key": []}, {}],
    }


KEYED: dict[str, Any] = {"security": [{"key": []}, {}]}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers of a route."""
    content = {MEDIA_TYPE: {"schema": reference(ProblemAnswer)}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def content_of(media_type: str, *models: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The 200 of a route that answers in another type than JSON."""
    schema: dict[str, Any] = {"type": "string"}
    if models:
        schema = {"anyOf": [reference(model) for model in models]}
    return {200: {"description": "OK", "content": {media_type: {"schema": schema}}}}


def describe(app: FastAPI) -> None:
    """Make the app's OpenAPI document whole."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    whole = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, added = models_json_schema(
        [(model, "validation") for model in ADDED], ref_template=REFERENCE
    )
    components = whole.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    components["schemas"] = added["$defs"] | schemas
    components["securitySchemes"] = {"key": KEY}
    return whole
