"""Streams of NDJSON, sent in chunks.

A client that sends all before it reads anything, over a connection whose buffers fill with answers,
would wait for the service while the service waits for it. The answers of a chunk fit the buffers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from selfilter_ray.service.client.answers import error_of
from selfilter_ray.service.client.transport import (
    LATER,
    LaterError,
    Transport,
    lines_of,
)

Item = TypeVar("Item")

CHUNK_LINES = 256
CHUNK_BYTES = 4 * 2**20


def encode_line(sample: Mapping[str, Any]) -> bytes:
    """A sample as a line of NDJSON, without its line feed."""
    return json.dumps(sample, separators=(",", ":")).encode("ascii")


def chunks(
    items: Iterable[Item], size_of: Callable[[Item], int], most: int, size: int
) -> Iterator[list[Item]]:
    """Items in chunks of at most ``most`` of them and ``size`` bytes; a longer one is alone."""
    chunk: list[Item] = []
    held = 0
    for item in items:
        bytes = size_of(item)
        if chunk and (len(chunk) == most or held + bytes > size):
            yield chunk
            chunk, held = [], 0
        chunk.append(item)
        held += bytes
    if chunk:
        yield chunk


def select_lines(transport: Transport, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """One answer for each line, in order; what got none, or "later", is sent again.

    Raises:
        ServiceError: when the stream as a whole is refused.
        UnreachableError: when answers are missing after all patience.
    """
    answers: list[dict[str, Any]] = []
    for attempt in transport.attempts():
        with attempt:
            for answer in _answers(transport, lines[len(answers) :]):
                answers.append(answer)
            return answers
    raise AssertionError("tenacity ends with a return or an exception")


def _answers(transport: Transport, lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    body = b"\n".join(lines) + b"\n" if lines else b""
    headers = {"Content-Type": "application/x-ndjson"}
    path = "/v1/select/stream"
    with transport.opened("POST", path, content=body, headers=headers) as response:
        wanted = len(lines)
        for line in lines_of(response):
            yield _final(line)
            wanted -= 1
    if wanted > 0:
        raise LaterError(f"the stream ended {wanted} answers early")


def _final(line: bytes) -> dict[str, Any]:
    """An answer; what only says that the stream ends here is none."""
    try:
        answer = json.loads(line)
    except ValueError:
        raise LaterError("the stream broke off inside an answer") from None
    error = error_of(answer) or {}
    if answer.get("end") or error.get("status") in LATER:
        raise LaterError(str(error.get("detail", "the stream ended early")))
    return answer
