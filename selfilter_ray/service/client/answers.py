"""What the service answers, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from selfilter_ray.service.client.errors import ServiceError

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Score:
    """The difficulty of a sample.

    Attributes:
        difficulty: higher is harder.
        weight: 1 is a sample like those of the scored pool; harder ones are below.
        percentile: share of the scored pool that is easier, 0 to 100.
    """

    id: str
    difficulty: float
    weight: float
    percentile: float


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A kept sample near the one that was decided on; ``similarity`` is a cosine."""

    id: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Answer:
    """One decision of the service; see ``online.decision.Decision``.

    Attributes:
        reason: ``admitted``, ``too_easy`` or ``near_duplicate``.
        threshold: what ``adjusted`` was held against; None where everything or nothing passed.
        evicted: id of the kept sample that had to go for it.
        sequence: place in the log of decisions.
    """

    id: str
    admitted: bool
    reason: str
    difficulty: float
    adjusted: float
    threshold: float | None
    nearest: tuple[Neighbour, ...]
    evicted: str | None
    sequence: int


@dataclass(frozen=True, slots=True)
class SampleError:
    """A sample that was refused while others of its request were answered.

    Attributes:
        code: what is wrong, in one stable word.
        status: the HTTP status it would have alone.
        detail: what is wrong.
        remedy: what to do.
        pointer: JSON pointer of the field that is wrong, or None.
    """

    id: str
    code: str
    status: int
    detail: str
    remedy: str
    pointer: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot that was written.

    Attributes:
        sequence: the decisions it covers, as ``SelectionWriter.snapshot`` counts them.
        kept: samples in it.
        bytes, seconds, file: of its file.
    """

    sequence: int
    kept: int
    bytes: int
    seconds: float
    file: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Whether the service answers now, and what each part says (``ready``, ``detail``)."""

    ready: bool
    parts: Mapping[str, Mapping[str, Any]]


def score_of(record: Mapping[str, Any]) -> Score | SampleError:
    """A result of ``/v1/score``."""
    return _made(record, _score)


def answer_of(record: Mapping[str, Any]) -> Answer | SampleError:
    """A result of ``/v1/select``, or a line of its stream."""
    return _made(record, _answer)


def error_of(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The error of a result, where it is one."""
    error = record.get("error")
    return error if isinstance(error, Mapping) else None


def _made(record: Mapping[str, Any], make: Any) -> Any:
    try:
        error = error_of(record)
        return make(record) if error is None else _sample_error(record, error)
    except (KeyError, TypeError, ValueError) as fault:
        raise ServiceError(
            200, "answer", f"an answer lacks what this client expects: {fault!r}",
            "use the client of the service's version",
        ) from None  # fmt: skip


def _score(record: Mapping[str, Any]) -> Score:
    return Score(
        str(record["id"]),
        float(record["difficulty"]),
        float(record["weight"]),
        float(record["percentile"]),
    )


def _answer(record: Mapping[str, Any]) -> Answer:
    threshold = record["threshold"]
    return Answer(
        id=str(record["id"]),
        admitted=bool(record["admitted"]),
        reason=str(record["reason"]),
        difficulty=float(record["difficulty"]),
        adjusted=float(record["adjusted"]),
        threshold=None if threshold is None else float(threshold),
        nearest=tuple(
            Neighbour(str(near["id"]), float(near["similarity"])) for near in record["nearest"]
        ),
        evicted=record.get("evicted"),
        sequence=int(record["sequence"]),
    )


def _sample_error(record: Mapping[str, Any], error: Mapping[str, Any]) -> SampleError:
    id = record.get("id")
    return SampleError(
        id if isinstance(id, str) else "",
        str(error["code"]),
        int(error["status"]),
        str(error.get("detail", "")),
        str(error.get("remedy", "")),
        error.get("pointer"),
    )
