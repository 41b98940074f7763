"""What the routes answer: plain values, and the models that /openapi.json shows of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from selfilter_ray.online.decision import Decision
from selfilter_ray.service.http.problems import Problem, of_refused
from selfilter_ray.service.messages import Kept, Refused, Scored


class Answer(BaseModel):
    """Answers may grow fields; readers should pass over those that they do not know."""

    model_config = ConfigDict(extra="allow")


class ErrorAnswer(Answer):
    """What is wrong with one sample among others."""

    code: str
    status: int
    detail: str
    remedy: str
    pointer: str | None = None


class FailedSample(Answer):
    """A sample that got no answer of its own; ``line`` in streams only, counted from 1."""

    id: str | None
    line: int | None = None
    error: ErrorAnswer


class ScoredSample(Answer):
    """Difficulty (higher is harder), weight (1: like the scored pool), share of it below, in %."""

    id: str
    difficulty: float
    weight: float
    percentile: float = Field(ge=0.0, le=100.0)


class Neighbour(Answer):
    id: str
    similarity: float


class DecidedSample(Answer):
    """A decision; ``threshold`` is null where everything passes, or nothing does."""

    id: str
    admitted: bool
    reason: Literal["admitted", "too_easy", "near_duplicate"]
    difficulty: float
    adjusted: float
    threshold: float | None
    nearest: list[Neighbour]
    evicted: str | None = None
    sequence: int


class KeptSample(DecidedSample):
    """A line of the selection; ``decided_at`` in seconds since 1970, UTC."""

    decided_at: float


class ScoreAnswer(Answer):
    results: list[ScoredSample | FailedSample]


class SelectAnswer(Answer):
    results: list[DecidedSample | FailedSample]


class ProblemAnswer(Answer):
    """application/problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    remedy: str
    pointer: str | None = None
    instance: str


class Stats(Answer):
    """State of the writer; see docs/service.md."""

    mode: Literal["rate", "budget"]
    sequence: int
    admitted: int
    kept: int
    threshold: float | None


class Recent(Answer):
    admitted: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


class Snapshot(Answer):
    sequence: int
    kept: int
    bytes: int
    seconds: float
    file: str


class Part(Answer):
    ready: bool
    detail: str


class Ready(Answer):
    ready: bool
    parts: dict[str, Part]


class Alive(Answer):
    alive: bool


def of_decision(decision: Decision) -> dict[str, Any]:
    said = decision.to_json()
    similarities, evicted = said.pop("similarities"), said.pop("evicted")
    said["nearest"] = [
        {"id": id, "similarity": similarity}
        for id, similarity in zip(said["nearest"], similarities, strict=True)
    ]
    return said if evicted is None else said | {"evicted": evicted}


def of_kept(kept: Kept) -> dict[str, Any]:
    return of_decision(kept.decision) | {"decided_at": kept.decided_at}


def of_scored(scored: Scored) -> dict[str, Any]:
    return {
        "id": scored.id,
        "difficulty": scored.difficulty,
        "weight": scored.weight,
        "percentile": scored.percentile,
    }


def of_failed(id: str | None, problem: Problem) -> dict[str, Any]:
    return {"id": id, "error": problem.error()}


def of_answer(answer: Scored | Decision | Refused) -> dict[str, Any]:
    """A sample's part of an answer."""
    if isinstance(answer, Decision):
        return of_decision(answer)
    if isinstance(answer, Scored):
        return of_scored(answer)
    return of_failed(answer.id, of_refused(answer))
