"""A search over features in this process: the backend proposes, the features decide.

Shapes: N samples, U sites, D features, Q queries.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from selfilter_ray.select import cosine
from selfilter_ray.select.neighbours.exact import unit_rows
from selfilter_ray.select.neighbours.search import Found

ROWS_AT_ONCE = 16_384


class Backend(Protocol):
    """Proposes nearest rows for vectors from anywhere."""

    margin: float
    approximate: bool

    def nearest_to(self, query_QD: np.ndarray, count: int, alive_U: np.ndarray) -> list[Found]:
        """As ``Search.nearest``, for float32 unit rows."""
        ...


class LocalSearch:
    """``Search`` over the rows of a matrix.

    Args:
        features_UD: float32, one row a site.
        squares_U: of the rows, by ``select.cosine``.
    """

    def __init__(self, features_UD: np.ndarray, squares_U: np.ndarray, backend: Backend) -> None:
        self.features_UD, self.squares_U, self.backend = features_UD, squares_U, backend
        self.margin, self.approximate = backend.margin, backend.approximate

    def nearest(self, sites: np.ndarray, count: int, alive_U: np.ndarray) -> list[Found]:
        query_QD = unit_rows(self.features_UD[sites], np.sqrt(self.squares_U[sites]))
        return self.backend.nearest_to(query_QD, count, alive_U)

    def cosines(self, site: int, others: np.ndarray) -> np.ndarray:
        square = float(self.squares_U[site])
        parts = [
            cosine.cosines(
                self.features_UD[site], square, self.features_UD[rows], self.squares_U[rows]
            )
            for start in range(0, max(1, len(others)), ROWS_AT_ONCE)
            for rows in [others[start : start + ROWS_AT_ONCE]]
        ]
        return np.concatenate(parts)
