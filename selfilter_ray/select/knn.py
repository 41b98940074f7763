"""The nearest neighbours of every sample by cosine, a block of rows at a time.

Products on the coarse grid propose some more neighbours than asked for, products on the fine grid
order them: the result is the same for any number of threads. A neighbour that is nearer by less
than the coarse grid's error (about 1e-4 of cosine) can be missed only when there are more such than
the proposals have room for.

Shapes: N samples, D features, K neighbours, R rows of a block.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.grid import FINE, chunks, coarse_rows, on_grid, radius

BLOCK_VALUES = 2**26  # float32 products held at once: 256 MB


def nearest_neighbours(features_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` nearest other rows of each row, nearest first, ties to the smaller row.

    Args:
        features_ND: float32. A zero row is at cosine 0 from all.
        k: cut to N - 1.

    Returns:
        (N, K) int64 row numbers and (N, K) float64 cosines.
    """
    samples = len(features_ND)
    k = max(0, min(k, samples - 1))
    neighbours_NK = np.empty((samples, k), dtype=np.int64)
    cosine_NK = np.empty((samples, k))
    if not k:
        return neighbours_NK, cosine_NK
    coarse_ND = coarse_rows(features_ND)
    for block in chunks(samples, max(1, min(1024, BLOCK_VALUES // samples))):
        rough_RN = _rough(coarse_ND, block)
        for row, rough_N in zip(range(block.start, block.stop), rough_RN, strict=True):
            proposed = _largest(rough_N, 2 * k + 16)
            proposed = proposed[proposed != row]
            neighbours_NK[row], cosine_NK[row] = _ordered(features_ND, row, proposed, k)
    return neighbours_NK, cosine_NK


def _rough(coarse_ND: np.ndarray, block: slice) -> np.ndarray:
    """(R, N) exact products on the coarse grid."""
    rows_RD = coarse_ND[block].astype(np.float32)
    rough_RN = np.empty((len(rows_RD), len(coarse_ND)), dtype=np.float32)
    for chunk in chunks(len(coarse_ND)):
        rough_RN[:, chunk] = rows_RD @ coarse_ND[chunk].astype(np.float32).T
    return rough_RN


def _largest(rough_N: np.ndarray, count: int) -> np.ndarray:
    """Row numbers of the largest values; of equal ones at the edge, those that stand first."""
    if count >= len(rough_N):
        return np.arange(len(rough_N))
    edge = np.partition(rough_N, len(rough_N) - count)[len(rough_N) - count]
    above = np.flatnonzero(rough_N > edge)
    equal = np.flatnonzero(rough_N == edge)[: count - len(above)]
    return np.concatenate([above, equal])


def _ordered(
    features_ND: np.ndarray, row: int, proposed: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    exact = on_grid(features_ND[np.concatenate([[row], proposed])], FINE)
    cosine = exact[1:] @ exact[0] / radius(features_ND.shape[1], FINE) ** 2
    nearest = np.lexsort((proposed, -cosine))[:k]
    return proposed[nearest], cosine[nearest]
