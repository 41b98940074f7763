"""The body of a request, read no further than its limit."""

from __future__ import annotations

from email.message import Message

from fastapi import Request
from starlette.requests import ClientDisconnect

from selfilter_ray.service.http.problems import Problem

JSON = ("application/json",)
NDJSON = ("application/x-ndjson", "application/ndjson", "application/jsonl")


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body of JSON.

    Raises:
        Problem: 415 for another content type, 413 for more than ``limit`` bytes: at once when the
            header says so, else as soon as they have arrived.
    """
    require_type(request, JSON)
    refuse_length(request, limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def refuse_length(request: Request, limit: int) -> None:
    said = request.headers.get("content-length", "")
    # Servers check the header; int() would refuse thousands of digits with an error of its own.
    if said.isdecimal() and (len(said) > 18 or int(said) > limit):
        raise too_large(limit)


def require_type(request: Request, allowed: tuple[str, ...]) -> None:
    """Refuse other content types (415), other charsets than UTF-8, and compressed bodies."""
    header = Message()
    header["content-type"] = request.headers.get("content-type", "").replace("\n", " ")
    # The parser answers text/plain for what it cannot read.
    charset = str(header.get_param("charset", "utf-8")).lower()
    if header.get_content_type() not in allowed or charset not in {"utf-8", "utf8", "us-ascii"}:
        detail = f"the body must be {allowed[0]} in UTF-8"
        raise Problem(415, "content_type", detail, f"Send the header Content-Type: {allowed[0]}.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        detail = "compressed bodies are not read"
        raise Problem(415, "content_encoding", detail, "Send the body without compression.")


def too_large(limit: int) -> Problem:
    detail = f"the body has more than {limit} bytes"
    remedy = "Send fewer samples a request, or a stream to /v1/select/stream."
    return Problem(413, "body_too_large", detail, remedy, headers={"Connection": "close"})
