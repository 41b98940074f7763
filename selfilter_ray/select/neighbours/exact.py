"""The exact search on one machine: matrix products, block by block, with a rising threshold.

Shapes: Q queries, U rows, D features, W rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from selfilter_ray.select.neighbours.best import Best
from selfilter_ray.select.neighbours.search import Found, product_margin

FIRST_BLOCK = 4096
BLOCK = 16384
# A block of which fewer live is copied without its dead before it is multiplied.
DENSE = 0.6
# Lengths outside are brought to 1 first, lest float32 products overflow or vanish.
SAFE_LENGTH = (1e-12, 1e12)


class ExactSearch:
    """Nearest rows of a matrix by cosine.

    Args:
        features_UD: float32.
        squares_U: float64, the squared length of each row; zero rows are similar to nothing.
    """

    approximate = False

    def __init__(self, features_UD: np.ndarray, squares_U: np.ndarray) -> None:
        length_U = np.sqrt(squares_U)
        rows = length_U[length_U > 0]
        if len(rows) and not (SAFE_LENGTH[0] < rows.min() and rows.max() < SAFE_LENGTH[1]):
            features_UD = unit_rows(features_UD, length_U)
            length_U = (length_U > 0).astype(np.float64)
        self.features_UD = features_UD
        self.scale_U = reciprocal(length_U).astype(np.float32)
        self.margin = product_margin(features_UD.shape[1])

    def nearest_to(self, query_QD: np.ndarray, count: int, alive_U: np.ndarray) -> list[Found]:
        """Candidates among the rows alive, as ``Search.nearest``.

        Args:
            query_QD: float32 unit rows.
        """
        best = Best(len(query_QD), count)
        for rows, scores_WQ in self._blocks(query_QD, alive_U):
            best.offer(rows, scores_WQ)
        return best.found(int(alive_U.sum()))

    def _blocks(
        self, query_QD: np.ndarray, alive_U: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row numbers and cosines, a block at a time."""
        start = 0
        while start < len(alive_U):
            # Growing blocks: a threshold from half of what was seen lets little through.
            stop = min(start + min(max(start, FIRST_BLOCK), BLOCK), len(alive_U))
            rows = start + np.flatnonzero(alive_U[start:stop])
            if len(rows):
                yield self._scores(query_QD, start, stop, rows)
            start = stop

    def _scores(
        self, query_QD: np.ndarray, start: int, stop: int, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers and their (W, Q) float32 cosines, minus infinity for those not wanted."""
        if len(rows) < DENSE * (stop - start):
            scores_WQ: np.ndarray = self.features_UD[rows] @ query_QD.T
            scores_WQ *= self.scale_U[rows, None]
            return rows, scores_WQ
        scores_WQ = self.features_UD[start:stop] @ query_QD.T
        scores_WQ *= self.scale_U[start:stop, None]
        dead = np.ones(stop - start, bool)
        dead[rows - start] = False
        scores_WQ[dead] = -np.inf
        return np.arange(start, stop), scores_WQ


def reciprocal(length_U: np.ndarray) -> np.ndarray:
    """1 / length, and 0 for 0."""
    return np.divide(1.0, length_U, out=np.zeros_like(length_U), where=length_U > 0)


def unit_rows(features_UD: np.ndarray, length_U: np.ndarray) -> np.ndarray:
    """(U, D) float32, rows of length 1; zero rows stay."""
    unit_UD = np.empty(features_UD.shape, np.float32)
    scale_U = reciprocal(length_U)
    for start in range(0, len(features_UD), BLOCK):
        rows = slice(start, start + BLOCK)
        unit_UD[rows] = features_UD[rows] * scale_U[rows, None]
    return unit_UD
