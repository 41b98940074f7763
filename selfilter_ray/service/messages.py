"""What the parts of the service hand to each other.

Shapes: D features of a sample, the image's and the text's beside each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from selfilter_ray.online.decision import Decision
from selfilter_ray.samples.record import Turn


@dataclass(frozen=True, slots=True)
class Preview:
    """What the live page shows of a sample.

    Attributes:
        text: its first characters.
        thumbnail: a small JPEG, or nothing.
    """

    text: str = ""
    thumbnail: bytes = b""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A sample of a request, its form checked; either with features or with a conversation.

    Attributes:
        id: of the sample.
        digest: 16 bytes over the content as it was sent; tells a repetition from a conflict.
        features_D: float32, when they were sent.
        turns, images: the conversation, and the bytes of its image files in their order.
    """

    id: str
    digest: bytes
    features_D: np.ndarray | None = None
    turns: tuple[Turn, ...] = ()
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """A sample with its difficulty.

    Attributes:
        difficulty: -z of the score net; higher is harder.
        weight: exp(z) over the mean of exp(z) in the scored pool: 1 is a sample like the pool's.
        percentile: share of the scored pool that is easier, 0 to 100.
        features_D: float32.
    """

    id: str
    difficulty: float
    weight: float
    percentile: float
    features_D: np.ndarray
    digest: bytes
    preview: Preview = Preview()


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that gets no answer of its own.

    Attributes:
        id: of the sample.
        code: what is wrong, in one stable word.
        status: the HTTP status when the request holds this sample alone.
        detail: what is wrong.
        remedy: what to do.
    """

    id: str
    code: str
    status: int
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """A scored sample on its way to the writer."""

    id: str
    digest: bytes
    difficulty: float
    features_D: np.ndarray
    preview: Preview = Preview()


@dataclass(frozen=True, slots=True)
class Kept:
    """A kept sample of the selection: its decision, and when it was made (seconds, UTC)."""

    decision: Decision
    decided_at: float


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests can be answered, and what each part says.

    Attributes:
        parts: by name: ``{"ready": bool, "detail": str}``.
    """

    ready: bool
    parts: dict[str, dict[str, Any]]


class NotReadyError(Exception):
    """The service cannot answer now: HTTP 503 with Retry-After.

    Nothing was acknowledged; the same request may be sent again.
    """

    def __init__(self, detail: str, retry_seconds: float = 1.0) -> None:
        super().__init__(detail)
        self.detail, self.retry_seconds = detail, retry_seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.detail, self.retry_seconds)


class BusyError(NotReadyError):
    """Too much is waiting: HTTP 429 with Retry-After."""
