"""One entry of the log, and the checksum that ties it to the one before.

Shapes: D features.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import from_json

from selfilter_ray.online.decision import Decision

_NUMBERS = struct.Struct("<qqdddd")
_LENGTHS = struct.Struct("<7q")
_NONE = b"\xff"


@dataclass(frozen=True, slots=True)
class Record:
    """A decision as it is stored.

    Attributes:
        values: of the columns of ``decisions`` in their order, without the checksum.
        checksum: over all of them and the checksum of the record before.
    """

    decision: Decision
    values: tuple[Any, ...]
    checksum: bytes

    @property
    def digest(self) -> bytes:
        """Of the sample's content as it was sent."""
        return bytes(self.values[2])

    @property
    def decided_at(self) -> float:
        """Seconds, UTC; for people, nothing is ordered by it."""
        return float(self.values[4])

    @property
    def vector_digest(self) -> bytes | None:
        """Of an admitted sample's features."""
        return None if self.values[12] is None else bytes(self.values[12])

    def row(self) -> tuple[Any, ...]:
        """For the table ``decisions``."""
        return *self.values, self.checksum

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Record:
        """Of a row with the columns of the table in their order.

        Raises:
            ValueError, TypeError: when a column holds what was never written.
        """
        values = tuple(row[:13])
        sequence, id, _, _, _, difficulty, adjusted, threshold = values[:8]
        reason, nearest, similarities, evicted, _ = values[8:]
        decision = Decision(
            sequence,
            id,
            difficulty,
            adjusted,
            threshold,
            reason,
            tuple(from_json(nearest)),
            struct.unpack(f"<{len(similarities) // 8}d", similarities),
            evicted,
        )
        return cls(decision, values, row[13])


def sealed(
    before: bytes,
    decision: Decision,
    digest: bytes,
    epoch: int,
    decided_at: float,
    vector_digest: bytes | None,
) -> Record:
    """The record of a decision that follows one with the checksum ``before``."""
    values = (
        decision.sequence,
        decision.id,
        digest,
        epoch,
        decided_at,
        decision.difficulty,
        decision.adjusted,
        decision.threshold,
        decision.reason,
        json.dumps(decision.nearest),
        struct.pack(f"<{len(decision.similarities)}d", *decision.similarities),
        decision.evicted,
        vector_digest,
    )
    return Record(decision, values, _checksum(before, values))


def follows(record: Record, before: bytes) -> bool:
    """Whether it is as it was written, and behind the record with that checksum."""
    try:
        return _checksum(before, record.values) == record.checksum
    except (TypeError, AttributeError, ValueError, struct.error):
        return False  # a damaged column may hold another type


def _checksum(before: bytes, values: tuple[Any, ...]) -> bytes:
    sequence, id, digest, epoch, at, difficulty, adjusted, threshold = values[:8]
    reason, nearest, similarities, evicted, vector = values[8:]
    parts = (
        id.encode(),
        digest,
        reason.encode(),
        nearest.encode(),
        similarities,
        _NONE if evicted is None else evicted.encode(),
        _NONE if vector is None else vector,
    )
    numbers = _NUMBERS.pack(sequence, epoch, at, difficulty, adjusted, threshold)
    lengths = _LENGTHS.pack(*map(len, parts))
    whole = b"".join((before, numbers, lengths, *parts))
    return hashlib.blake2b(whole, digest_size=16).digest()


def vector_bytes(features_D: np.ndarray) -> bytes:
    """As they are stored: float32, little endian."""
    return np.asarray(features_D, "<f4").tobytes()


def vector_digest(stored: bytes) -> bytes:
    return hashlib.blake2b(stored, digest_size=16).digest()
