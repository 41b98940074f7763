"""What a neighbour search promises.

A fast product of float32 numbers proposes neighbours, and says how far its cosines can be from the
truth (``margin``) and what it has left out (``floor``). With both the caller knows whether the true
nearest are among them. Shapes: Q queries, U sites, D features, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Found:
    """Candidates of one query.

    Attributes:
        sites: (C,) int64, nearest first.
        rough: (C,) float32 or float64 cosines, each within the search's ``margin`` of the truth.
        floor: no site that was left out has a rough cosine above it; minus infinity when none was.
    """

    sites: np.ndarray
    rough: np.ndarray
    floor: float


class Search(Protocol):
    """Finds the sites nearest to others.

    Attributes:
        margin: bound of the difference between a rough and the true cosine.
        approximate: whether sites nearer than ``floor`` may be missing all the same.
    """

    margin: float
    approximate: bool

    def nearest(self, sites: np.ndarray, count: int, alive_U: np.ndarray) -> list[Found]:
        """Candidates of each of the sites among those alive (itself, when it is).

        Args:
            sites: (Q,) int64, the queries.
            count: at least that many candidates, where there are so many.
            alive_U: bool, the sites that can still be neighbours.
        """
        ...

    def cosines(self, site: int, others: np.ndarray) -> np.ndarray:
        """(C,) float64, by ``select.cosine``."""
        ...


def product_margin(features: int) -> float:
    """Bound of the error of a float32 inner product of unit rows, in any order of summation."""
    return float(np.finfo(np.float32).eps) * (features + 8)
