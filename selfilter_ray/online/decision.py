"""What is written down of each arriving sample: enough to replay the stream and to check it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Reason = Literal["admitted", "too_easy", "near_duplicate"]
Fault = Literal["features", "dimension", "not_finite", "length", "difficulty"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One sample, decided.

    Attributes:
        sequence: place in the log, from 0 without a gap.
        id: of the sample.
        difficulty: as it was given, before the base is subtracted.
        adjusted: after base and penalty; with a budget, the sample's value among the kept.
        threshold: what ``adjusted`` was held against. Minus infinity where everything passes, plus
            infinity where nothing does.
        reason: why it was admitted or not.
        nearest: ids of the kept neighbours that made the penalty, nearest first; of a near
            duplicate, the kept sample that it repeats.
        similarities: their cosines.
        evicted: id of the kept sample that had to go for it.
    """

    sequence: int
    id: str
    difficulty: float
    adjusted: float
    threshold: float
    reason: Reason
    nearest: tuple[str, ...]
    similarities: tuple[float, ...]
    evicted: str | None = None

    @property
    def admitted(self) -> bool:
        return self.reason == "admitted"

    def to_json(self) -> dict[str, Any]:
        """JSON values; an infinite threshold is null, and ``admitted`` tells which one it was."""
        return {
            "sequence": self.sequence,
            "id": self.id,
            "admitted": self.admitted,
            "reason": self.reason,
            "difficulty": self.difficulty,
            "adjusted": self.adjusted,
            "threshold": self.threshold if math.isfinite(self.threshold) else None,
            "nearest": list(self.nearest),
            "similarities": list(self.similarities),
            "evicted": self.evicted,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Decision:
        """The decision that ``to_json`` wrote; numbers come back bit for bit."""
        threshold = record["threshold"]
        if threshold is None:
            threshold = -math.inf if record["admitted"] else math.inf
        return cls(
            sequence=record["sequence"],
            id=record["id"],
            difficulty=record["difficulty"],
            adjusted=record["adjusted"],
            threshold=threshold,
            reason=record["reason"],
            nearest=tuple(record["nearest"]),
            similarities=tuple(record["similarities"]),
            evicted=record["evicted"],
        )


@dataclass(frozen=True, slots=True)
class Invalid:
    """A sample that cannot be decided on. It leaves no trace in the state.

    Attributes:
        position: in the micro-batch.
        fault: what is wrong, in one word.
        detail: what is wrong and what to do.
    """

    position: int
    id: str
    fault: Fault
    detail: str
