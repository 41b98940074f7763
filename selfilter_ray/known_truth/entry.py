"""A record of a pool with known truth, before it has an id and a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Kind = Literal["clean", "wrong_answer", "duplicate", "trivial", "long_answer", "mismatched"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One question about one picture.

    Attributes:
        picture: the file of the data set that it is about.
        question: as the data file has it, the picture's mark included.
        answer: what the pool says; wrong where ``kind`` says so.
        type: of the question, such as ``color``.
        kind: what was planted.
        copy_of: place of the original in the list of entries, for a duplicate.
        change: seed of the change of its picture; None where the picture is as it was.
    """

    picture: Path
    question: str
    answer: str
    type: str
    kind: Kind = "clean"
    copy_of: int | None = None
    change: int | None = None


def drawn(entries: Sequence[Entry], rows: int, random: np.random.Generator) -> list[Entry]:
    """So many of them, uniformly without replacement."""
    places = random.permutation(len(entries))[:rows]
    return [entries[place] for place in places.tolist()]


def planted_rows(rows: int, share: float, random: np.random.Generator) -> set[int]:
    """Which of so many rows get a fault: the share, rounded."""
    return set(random.permutation(rows)[: round(share * rows)].tolist())
