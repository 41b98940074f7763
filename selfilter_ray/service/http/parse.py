"""From bytes to checked samples; what is wrong is named by its JSON pointer."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from selfilter_ray.samples.parse import MAX_ID_CHARACTERS
from selfilter_ray.service.http.problems import Problem

LONG = 2**18  # bytes that take some milliseconds

Model = TypeVar("Model", bound=BaseModel)


def parse(model: type[Model], text: bytes | bytearray) -> Model:
    """The checked request.

    Raises:
        Problem: 400 when it is not JSON, 422 when a field is missing, extra or wrong.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _problem(error) from None


async def parse_aside(model: type[Model], text: bytes) -> Model:
    """``parse``; what is long is read in a thread, and others are answered meanwhile."""
    if len(text) < LONG:
        return parse(model, text)
    return await asyncio.to_thread(parse, model, text)


def _problem(error: ValidationError) -> Problem:
    # Errors must not carry the input: it may be megabytes, and a secret.
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        detail = f"not JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
        return Problem(400, "not_json", detail, "Send one JSON object in UTF-8, without a BOM.")
    where = pointer(first["loc"])
    detail = f"{where or 'the object'}: {first['msg'].removeprefix('Value error, ')}"
    if len(errors) > 1:
        detail += f" (and {len(errors) - 1} more)"
    return Problem(422, "wrong_form", detail, "Correct the field; see /openapi.json.", where)


def pointer(path: tuple[Any, ...]) -> str:
    """A JSON pointer (RFC 6901) from pydantic's path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


class _Named(BaseModel):
    """What a line that cannot be used may still hold."""

    id: Annotated[str, Field(max_length=MAX_ID_CHARACTERS)]


def readable_id(text: bytes | None) -> str | None:
    """The id in a bad line, so that its answer can be matched."""
    try:
        return _Named.model_validate_json(text or b"").id
    except ValidationError:
        return None
