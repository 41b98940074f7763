"""The highest scores of many queries, from blocks of scores that come one after the other.

Shapes: Q queries, W rows of a block, H hits kept so far.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.neighbours.search import Found


class Best:
    """Keeps up to ``count`` rows a query; what is let through must beat the last of them."""

    def __init__(self, queries: int, count: int) -> None:
        self.count = count
        self.threshold_Q = np.full(queries, -np.inf, np.float32)
        self._query_H = np.zeros(0, np.int64)
        self._row_H = np.zeros(0, np.int64)
        self._score_H = np.zeros(0, np.float32)

    def offer(self, rows_W: np.ndarray, scores_WQ: np.ndarray) -> None:
        """Scores of some rows, float32; minus infinity for rows that do not count."""
        first = len(self._row_H) == 0 and len(rows_W) > self.count
        if first:
            place = len(rows_W) - self.count
            self.threshold_Q = np.partition(scores_WQ.T, place, axis=1)[:, place].copy()
        let_through = scores_WQ >= self.threshold_Q if first else scores_WQ > self.threshold_Q
        flat = np.flatnonzero(let_through)
        column, query = np.divmod(flat, len(self.threshold_Q))
        self._keep(query, rows_W[column], scores_WQ.ravel()[flat])

    def found(self, rows: int) -> list[Found]:
        """What was kept of each query, nearest first; ``rows`` is how many counted in all."""
        bounds = np.searchsorted(self._query_H, np.arange(len(self.threshold_Q) + 1))
        return [
            Found(
                self._row_H[start:stop],
                self._score_H[start:stop],
                -np.inf if stop - start == rows else float(threshold),
            )
            for start, stop, threshold in zip(
                bounds[:-1], bounds[1:], self.threshold_Q, strict=True
            )
        ]

    def _keep(self, query: np.ndarray, row: np.ndarray, score: np.ndarray) -> None:
        query = np.concatenate([self._query_H, query])
        row = np.concatenate([self._row_H, row])
        score = np.concatenate([self._score_H, score])
        order = np.argsort(query.astype(np.uint64) << np.uint64(32) | _descending(score))
        query = query[order]
        rank = np.arange(len(query)) - np.searchsorted(query, query)
        kept = (rank < self.count) & (score[order] > -np.inf)
        self._query_H, self._row_H = query[kept], row[order][kept]
        self._score_H = score[order][kept]
        full = rank[kept] == self.count - 1
        self.threshold_Q[self._query_H[full]] = self._score_H[full]


def _descending(score: np.ndarray) -> np.ndarray:
    """Unsigned integers that order the other way round than the float32 they are made from."""
    bits = (score + np.float32(0.0)).view(np.uint32)  # minus zero becomes zero
    negative = bits >> np.uint32(31) == 1
    return np.where(negative, bits, bits ^ np.uint32(0x7FFFFFFF)).astype(np.uint64)
