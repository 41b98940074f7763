"""Cosines to the nearest chosen sample, block by block: never a table of all pairs.

Shapes: N samples of the pool, D features, Q queries, B chosen.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.cosine import squares
from selfilter_ray.select.neighbours import exact
from selfilter_ray.select.sites import row_digests

MOST_QUERIES = 20_000
FEWEST_QUERIES = 1_000
# Cosines that one figure may cost; with a large budget fewer samples are asked.
MOST_PAIRS = 200_000_000
QUERY_BLOCK, CHOSEN_BLOCK = 2_048, 8_192


def query_count(rows: int, chosen: int) -> int:
    """How many of ``rows`` are asked for their nearest of ``chosen``: all of them if affordable."""
    affordable = MOST_PAIRS // max(1, chosen)
    return min(rows, MOST_QUERIES, max(FEWEST_QUERIES, affordable))


def smallest_hashes(hash_N: np.ndarray, count: int) -> np.ndarray:
    """Row numbers of the ``count`` smallest hashes, ascending: a sample that the ids decide."""
    if count >= len(hash_N):
        return np.arange(len(hash_N))
    return np.sort(np.argsort(hash_N, kind="stable")[:count])


def unit_rows(features_ND: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those rows with length 1, float32. A zero row stays zero: it is similar to nothing."""
    taken_QD = features_ND[rows]
    return exact.unit_rows(taken_QD, np.sqrt(squares(taken_QD)))


def nearest_cosine(
    query_QD: np.ndarray,
    chosen_BD: np.ndarray,
    own_Q: np.ndarray | None = None,
    query_block: int = QUERY_BLOCK,
    chosen_block: int = CHOSEN_BLOCK,
) -> np.ndarray:
    """(Q,) float64, the largest cosine of each query to a chosen row.

    Args:
        query_QD, chosen_BD: unit rows; at least one chosen row besides a query's own.
        own_Q: which chosen row each query is; that one does not count.
        query_block, chosen_block: sizes of the products in memory; they change rounding only.
    """
    best_Q = np.full(len(query_QD), -np.inf)
    for first in range(0, len(query_QD), query_block):
        queries = slice(first, first + query_block)
        for start in range(0, len(chosen_BD), chosen_block):
            cosine = query_QD[queries] @ chosen_BD[start : start + chosen_block].T
            if own_Q is not None:
                column = own_Q[queries] - start
                here = np.flatnonzero((column >= 0) & (column < cosine.shape[1]))
                cosine[here, column[here]] = -np.inf
            best_Q[queries] = np.maximum(best_Q[queries], cosine.max(axis=1))
    return np.clip(best_Q, -1.0, 1.0)


def repeated_rows(features_ND: np.ndarray, rows: np.ndarray) -> int:
    """How many of those rows equal an earlier one in every feature; zero rows are not counted."""
    seen: set[bytes] = set()
    repeated = 0
    for row in rows:
        values = features_ND[row] + np.float32(0.0)  # -0.0 becomes 0.0: equal values, equal bytes
        if values.any():
            [digest] = row_digests(values[None])
            repeated += digest in seen
            seen.add(digest)
    return repeated
