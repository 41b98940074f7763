"""Whole numbers in proportion, and draws that keep to them.

Shapes: G groups, N samples, R rows to draw from.
"""

from __future__ import annotations

import numpy as np


def largest_remainder(
    weights_G: np.ndarray, total: int, caps_G: np.ndarray, tie_rank_G: np.ndarray | None = None
) -> np.ndarray:
    """Share ``total`` in proportion to the weights, whole numbers, none above its cap.

    Each group gets its share rounded down; what is left goes one by one to the largest remainders,
    ties to the lowest ``tie_rank_G`` or else the first. A share above its cap is cut, and the rest
    is shared again by the weights of the others, equally where all those are 0.

    Args:
        weights_G: at least 0.
        total: at most the sum of the caps.
        caps_G: whole numbers.

    Returns:
        (G,) int64 that sum to ``total``.
    """
    caps_G = np.asarray(caps_G, dtype=np.int64)
    tie_rank_G = np.arange(len(caps_G)) if tie_rank_G is None else tie_rank_G
    if total > caps_G.sum():
        raise ValueError(f"{total} cannot be shared out under caps that sum to {caps_G.sum()}")
    quotas_G = np.zeros(len(caps_G), dtype=np.int64)
    open_G = caps_G > 0
    while total:
        share_G = total * _proportions(weights_G, open_G)
        full_G = open_G & (share_G >= caps_G)
        if not full_G.any():
            return quotas_G + _rounded(share_G, total, tie_rank_G)
        quotas_G[full_G] = caps_G[full_G]
        total -= int(caps_G[full_G].sum())
        open_G &= ~full_G
    return quotas_G


def draw_stratified(
    rows_R: np.ndarray, strata_N: np.ndarray, rank_N: np.ndarray, count: int
) -> np.ndarray:
    """Draw ``count`` of the rows without replacement, each stratum in proportion to its size.

    Args:
        rows_R: row numbers.
        strata_N: whole numbers from 0 that name each sample's stratum.
        rank_N: the random order: lower is drawn first.

    Returns:
        (count,) row numbers, by rank.
    """
    rows_R = rows_R[np.lexsort((rank_N[rows_R], strata_N[rows_R]))]
    size_G = np.bincount(strata_N[rows_R], minlength=1)
    quotas_G = largest_remainder(size_G, count, size_G)
    first_G = np.cumsum(size_G) - size_G
    place_R = np.arange(len(rows_R)) - first_G[strata_N[rows_R]]
    drawn = rows_R[place_R < quotas_G[strata_N[rows_R]]]
    return drawn[np.argsort(rank_N[drawn], kind="stable")]


def draw_systematic(
    rows_R: np.ndarray, strata_N: np.ndarray, rank_N: np.ndarray, count: int, start: float
) -> np.ndarray:
    """Draw ``count`` of the rows: every row is as likely, each stratum has its share, give or take
    one.

    The rows stand stratum by stratum, each in random order; every (R / count)-th is taken. Unlike
    with rounded quotas, many small draws together do not pass over a small stratum.

    Args:
        rows_R, strata_N, rank_N: as for ``draw_stratified``.
        start: random, from 0 to below 1: where in the first interval.

    Returns:
        (count,) row numbers.
    """
    rows_R = rows_R[np.lexsort((rank_N[rows_R], strata_N[rows_R]))]
    places = np.floor((np.arange(count) + start) * (len(rows_R) / max(count, 1)))
    return rows_R[places.astype(np.int64).clip(max=len(rows_R) - 1)]


def _proportions(weights_G: np.ndarray, open_G: np.ndarray) -> np.ndarray:
    weights_G = np.where(open_G, weights_G, 0.0)
    if not weights_G.any():
        weights_G = open_G.astype(np.float64)
    weights_G = weights_G / weights_G.max()  # no sum overflows, none is denormal
    return weights_G / weights_G.sum()


def _rounded(share_G: np.ndarray, total: int, tie_rank_G: np.ndarray) -> np.ndarray:
    quotas_G = np.floor(share_G).astype(np.int64)
    # Shares that are equal by right may differ in their last bits: that must not decide.
    remainder_G = np.round(share_G - quotas_G, 9)
    quotas_G[np.lexsort((tie_rank_G, -remainder_G))[: total - quotas_G.sum()]] += 1
    return quotas_G
