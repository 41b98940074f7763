"""The nearest neighbours of every sample by cosine, in batches.

Proposed by matrix products, proved to be all by the search's floor, ordered by cosines in fixed
arithmetic (``select.neighbours``): the same for any number of threads.

Shapes: N samples, D features, K neighbours, C candidates.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.cosine import squares
from selfilter_ray.select.neighbours.backends import local_search
from selfilter_ray.select.neighbours.local import LocalSearch
from selfilter_ray.select.neighbours.search import Found

QUERIES_AT_ONCE = 512
MORE = 16  # candidates beyond those asked for
WIDER = 4


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
    features_ND = np.ascontiguousarray(features_ND, np.float32)
    search = local_search("exact", features_ND, squares(features_ND))
    everyone = np.ones(samples, bool)
    for start in range(0, samples, QUERIES_AT_ONCE):
        rows = np.arange(start, min(start + QUERIES_AT_ONCE, samples))
        found = search.nearest(rows, k + 1 + MORE, everyone)
        for row, candidates in zip(rows.tolist(), found, strict=True):
            close = _close(search, row, candidates, k, everyone)
            cosine_C = search.cosines(row, close)
            order = np.lexsort((close, -cosine_C))[:k]
            neighbours_NK[row], cosine_NK[row] = close[order], cosine_C[order]
    return neighbours_NK, cosine_NK


def _close(search: LocalSearch, row: int, found: Found, k: int, everyone: np.ndarray) -> np.ndarray:
    """The other rows that can be among the k nearest, searched wider until they are all there."""
    count = len(found.sites)
    while True:
        others = found.sites != row
        sites, rough = found.sites[others], found.rough[others]
        limit = float(rough[k - 1]) - 2.0 * search.margin
        if found.floor < limit or found.floor == -np.inf:
            close: np.ndarray = sites[rough >= limit]
            return close
        count = min(WIDER * count, len(everyone))
        found = search.nearest(np.array([row]), count, everyone)[0]
