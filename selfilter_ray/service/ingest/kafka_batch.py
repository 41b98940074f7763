"""Messages on their way: the lines that are sent for them, and what is written of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from confluent_kafka import Message

from selfilter_ray.service.client.answers import error_of
from selfilter_ray.service.ingest.row import Fault

Headers = list[tuple[str, str | bytes | None]]
# Between the tokens of JSON a line break is a space; NDJSON has none inside a line.
_SPACES = bytes.maketrans(b"\r\n", b"  ")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for the output topic, or (``dead``) for the dead-letter topic."""

    dead: bool
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Taken:
    """A message, and the line that is sent for it, or why none is."""

    message: Message
    line: bytes
    fault: Fault | None


def take(message: Message, most: int) -> Taken:
    """Look at a message of at most ``most`` bytes."""
    value = message.value() or b""
    if len(value) > most:
        detail = f"{len(value)} bytes, the limit is {most}"
        remedy = "shrink its images, or raise message_bytes and the service's limits.line_bytes"
        return Taken(message, b"", Fault("message_too_large", detail, remedy))
    line = value.removeprefix(_BOM).translate(_SPACES).strip()
    if not line:
        fault = Fault("message_empty", "the message has no value", "send one sample as JSON")
        return Taken(message, b"", fault)
    return Taken(message, line, None)


def outgoing(taken: Sequence[Taken], answers: Sequence[dict[str, Any]]) -> Iterator[Outgoing]:
    """What is written of each message, in their order.

    Args:
        answers: to those that were sent, in their order.
    """
    answering = iter(answers)
    for one in taken:
        if one.fault is not None:
            yield _dead(one, one.fault.code, f"{one.fault.detail}; {one.fault.remedy}")
            continue
        answer = next(answering)
        error = error_of(answer)
        if error is not None:
            reason = f"{error.get('detail', '')} {error.get('remedy', '')}"
            yield _dead(one, str(error.get("code", "")), reason)
        else:
            value = json.dumps(answer, separators=(",", ":")).encode("ascii")
            yield Outgoing(False, one.message.key(), value, _headers(one.message))


def _dead(taken: Taken, code: str, reason: str) -> Outgoing:
    message = taken.message
    headers = _headers(message)
    headers += [("selfilter-code", code), ("selfilter-reason", reason.strip()[:1000])]
    left_out = taken.fault is not None and taken.fault.code == "message_too_large"
    return Outgoing(True, message.key(), None if left_out else message.value(), headers)


def _headers(message: Message) -> Headers:
    """Those of the message, and where it stands."""
    given = cast(Headers, message.headers() or [])
    own = [(name, value) for name, value in given if not name.startswith("selfilter-")]
    return [
        *own,
        ("selfilter-topic", message.topic() or ""),
        ("selfilter-partition", str(message.partition())),
        ("selfilter-offset", str(message.offset())),
    ]
