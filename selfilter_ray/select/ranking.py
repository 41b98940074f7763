"""From one number a sample to an order, best first.

One rule for all methods: a sample without a value (NaN) ranks after all that have one, in random
order, and is counted. It has no supervised token, no image, no rating, or its model failed on it.
Ties go to the smaller id, which is the smaller row.

Shapes: N samples, R rows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from selfilter_ray.select.contract import Pool, Selection
from selfilter_ray.select.random_order import random_rank

Keep = Literal["top", "middle", "bottom"]


def ranked(value_N: np.ndarray, keep: Keep = "top") -> np.ndarray:
    """(R,) the rows that have a value, best first.

    ``middle``: by distance from the median in rank, so that the first B are the B in the middle.
    """
    rows = np.flatnonzero(~np.isnan(value_N))
    ascending = rows[np.argsort(value_N[rows], kind="stable")]
    if keep == "bottom":
        return ascending
    if keep == "top":
        return rows[np.argsort(-value_N[rows], kind="stable")]
    off_centre = np.abs(2 * np.arange(len(rows)) - (len(rows) - 1))
    return ascending[np.lexsort((ascending, off_centre))]


def missing_last(pool: Pool, ranked_R: np.ndarray, seed: int) -> np.ndarray:
    """(N,) the ranked rows, then all others in random order."""
    others = np.setdiff1d(np.arange(len(pool.ids)), ranked_R)
    rank = random_rank(pool.ids[others], seed, "without a value")
    return np.concatenate([ranked_R, others[np.argsort(rank)]]).astype(np.int64)


def select_ranked(
    pool: Pool, ranked_R: np.ndarray, value_N: np.ndarray, budget: int, seed: int
) -> Selection:
    """The first ``budget`` rows; the details count those without a value."""
    indices = missing_last(pool, ranked_R, seed)[:budget]
    details = {
        "without_value": len(pool.ids) - len(ranked_R),
        "picked_without_value": max(0, budget - len(ranked_R)),
    }
    return Selection(indices, value_N[indices], details)
