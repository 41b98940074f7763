"""What the service refused, as an exception."""

from __future__ import annotations

from typing import Any

from selfilter_ray.errors import SelfilterError


class ServiceError(SelfilterError):
    """The service answered with a problem instead of a result.

    Attributes:
        status: the HTTP status; 0 where there was no answer.
        code: what is wrong, in one stable word; empty where the answer does not say.
        detail: what is wrong.
        remedy: what to do; may be empty.
        pointer: JSON pointer of the field that is wrong, or None.
    """

    def __init__(
        self, status: int, code: str, detail: str, remedy: str = "", pointer: str | None = None
    ) -> None:
        super().__init__(_message(status, detail, remedy, pointer))
        self.status, self.code, self.detail = status, code, detail
        self.remedy, self.pointer = remedy, pointer

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, self.code, self.detail, self.remedy, self.pointer)


class UnreachableError(ServiceError):
    """No answer at all, or none but "later", for as long as the client was told to try."""


def problem_error(status: int, problem: Any) -> ServiceError:
    """The exception of a problem+json body; of any other body, what can be told of it."""
    if not isinstance(problem, dict):
        return ServiceError(status, "", f"the answer has status {status} and is no problem+json")
    pointer = problem.get("pointer")
    return ServiceError(
        status,
        _text(problem.get("code")),
        _text(problem.get("detail")) or _text(problem.get("title")) or f"status {status}",
        _text(problem.get("remedy")),
        pointer if isinstance(pointer, str) else None,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _message(status: int, detail: str, remedy: str, pointer: str | None) -> str:
    place = f" (at {pointer})" if pointer else ""
    advice = f" Remedy: {remedy}" if remedy else ""
    answered = f"the service answered {status}{place}" if status else "the service is away"
    return f"{answered}: {detail}{advice}"
